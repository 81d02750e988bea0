"""What everything talks about: page sets, regions, iterations, errors. No I/O here."""
