"""What a saved adapter has learned, read without its base model: gains as text, heat maps and distributions."""
