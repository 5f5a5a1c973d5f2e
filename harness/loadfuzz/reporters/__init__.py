"""Who hears the events of a campaign and shows them: screen, lines, log, JSON."""
