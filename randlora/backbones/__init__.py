"""Models whose weights can be adapted, behind one interface."""
