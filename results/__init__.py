"""Run records, their roll-up into tables, and the rendering of those tables."""
