"""What the families cost, and how far they are from exact attention, at equal shapes."""
