"""Real images: decoded once into a packed array, then gathered by index."""
