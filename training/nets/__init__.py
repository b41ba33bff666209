"""Networks that only training needs: critics and experts. None of them is exported."""
