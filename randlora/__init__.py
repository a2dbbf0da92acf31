"""Full-rank parameter-efficient fine-tuning with random bases (RandLoRA) and the methods it is compared with."""
