"""The contract of fine-tuning methods, checked on a user's own model: see :func:`randlora.audit.contract.audit`."""
