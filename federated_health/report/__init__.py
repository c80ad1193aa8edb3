"""HTML reports: plain content, charts, and the page around them.

A report is one file that loads nothing. Modules here import from `messages` and the layers below it only.
"""
