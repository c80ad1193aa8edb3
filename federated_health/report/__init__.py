"""A report as one HTML page that needs nothing else: plain content, its pictures, and the page around them."""
