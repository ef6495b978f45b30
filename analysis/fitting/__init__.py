"""What is computed for a curve: numbers and intervals, and no word about them."""
