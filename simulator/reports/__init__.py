"""What people see of runs: numbers, tables, files, pages."""
