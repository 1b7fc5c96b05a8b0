from django.urls import path

from . import views

app_name = "schedules"
urlpatterns = [
    path("", views.schedules_list, name="list"),
    path("new/", views.create, name="new"),
    path("when/", views.preview, name="when"),
    path("<uuid:pk>/", views.schedule, name="schedule"),
    path("<uuid:pk>/change/", views.change, name="change"),
    path("<uuid:pk>/pause/", views.pause, name="pause"),
    path("<uuid:pk>/resume/", views.resume, name="resume"),
    path("<uuid:pk>/take/", views.take, name="take"),
    path("<uuid:pk>/run/", views.run_now, name="run"),
    path("<uuid:pk>/delete/", views.delete, name="delete"),
    path("<uuid:pk>/moments/<uuid:row_pk>/", views.answer, name="answer"),
]
