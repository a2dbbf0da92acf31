"""Command-line verbs and the shared trainer."""
