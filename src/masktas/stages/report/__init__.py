"""RUN -> report.html"""
