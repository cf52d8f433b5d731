"""What models say: rates of judged answers by category, compared between models, and the answers themselves."""
