"""Networks that only training needs: the sync experts, the discriminator, perceptual features."""
