"""The figures of one or more runs, and the HTML page that shows them."""
