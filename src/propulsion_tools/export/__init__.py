"""A finished adapter in other forms: a plain checkpoint, or an adapter of one of PEFT's own methods; and back."""
