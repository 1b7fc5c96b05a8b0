"""Live sessions over the API: say something to who is there. Who that is stands in the session itself."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from fleetops.identity.rest import ApiView, Asked

from . import live, services
from .models import SessionMessage, TerminalSession


class SaySerializer(Asked):
    """What is said, and why, where the access policy wants to know."""

    text = serializers.CharField(max_length=live.LONGEST_MESSAGE)
    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")


class SaidSerializer(serializers.ModelSerializer):
    """A message to who is at a live session."""

    author = serializers.CharField(source="author_name", read_only=True)

    class Meta:
        model = SessionMessage
        fields = ("author", "text", "created_at")
        read_only_fields = fields


class Messages(ApiView):
    """What is said to who is at a live session."""

    scopes = {"POST": "sessions:message"}

    @extend_schema(operation_id="sessions_message", request=SaySerializer, responses={201: SaidSerializer})
    def post(self, request, pk):
        """Say something: it is shown above the shell within a second, recorded and audited. For who may watch."""
        session = get_object_or_404(TerminalSession.objects.visible_to(request.user), pk=pk)
        asked = SaySerializer.of(request)
        reason = services.one_line(asked["reason"])
        message = live.send_message(session, actor=request.user, text=asked["text"], reason=reason)
        return Response(SaidSerializer(message).data, status=201)


urlpatterns = [path("sessions/<uuid:pk>/messages/", Messages.as_view(), name="session_messages")]
