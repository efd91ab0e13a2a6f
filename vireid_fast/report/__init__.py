"""Pages that show results: what they contain (`content`), and how it becomes one HTML file."""
