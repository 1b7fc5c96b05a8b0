"""What base.html needs on every page."""


def shell(request):
    return {}
