"""Training of the paper's model, its sync experts and its distillation."""
