"""The plot."""


def svg(bench, figures):
    return ""
