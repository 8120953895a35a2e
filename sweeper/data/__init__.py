"""From raw rows to frozen, tokenised splits."""
