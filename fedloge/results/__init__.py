"""Reading, grouping and comparing runs; tables, figures and the HTML report."""
