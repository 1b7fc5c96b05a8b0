"""What people ask leave for, and what others say."""

from django.urls import path

from . import views

app_name = "approvals"
urlpatterns = [
    path("", views.requests, name="list"),
    path("<uuid:pk>/", views.request_page, name="request"),
    path("<uuid:pk>/vote/", views.vote, name="vote"),
    path("<uuid:pk>/withdraw/", views.withdraw, name="withdraw"),
]
