"""One small file per fine-tuning method."""
