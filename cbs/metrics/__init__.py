"""How good the generated images are."""
