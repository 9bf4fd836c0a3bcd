"""What a model is worth: pictures and texts to look at while it trains."""
