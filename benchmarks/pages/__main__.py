"""Fill the pages."""

from benchmarks.pages import filled

for page, text in filled().items():
    page.write_text(text)
