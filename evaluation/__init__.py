"""Statistics of jokes and critics: pure functions over text and numbers, no torch."""
