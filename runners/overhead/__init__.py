"""What a sweep costs beside training and evaluation."""
