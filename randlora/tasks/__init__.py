"""Tasks: what is predicted, by which loss, from which head."""
