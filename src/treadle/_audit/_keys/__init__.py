"""Where random keys come from, and who consumes them."""
