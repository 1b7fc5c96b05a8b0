"""Calendars over the API: freezes and windows, their periods, and what they hold."""

from datetime import datetime

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.errors import in_field
from fleetops.identity.rest import ApiView, Asked, choice_in, flag_in
from fleetops.targets import MOST_CHARACTERS

from . import services, tasks
from .deeds import BINDABLE, DEEDS
from .forms import facts_of
from .models import Calendar, CalendarKind, CalendarSource, Entry, Repeat
from .periods import HORIZON, MOST_BYTES, Period, between

READ, WRITE = "calendars:read", "calendars:write"
SEE, CHANGE = ("calendars.view_calendar",), ("calendars.change_calendar",)
MOST_LISTED = 40  # periods that come, of one calendar
FIELDS = ("name", "kind", "source", "deeds", "targets", "zone", "note", "enabled")
LOCAL = "%Y-%m-%dT%H:%M"


@extend_schema_field(OpenApiTypes.STR)
class LocalTimeField(serializers.Field):
    """A time of the calendar's zone, to the minute, without a zone: 2026-12-20T18:00."""

    def to_internal_value(self, data) -> datetime:
        try:
            return datetime.strptime(data, LOCAL)
        except (ValueError, TypeError):
            raise ValidationError("Write a time of the calendar's zone as 2026-12-20T18:00.") from None


class CalendarSerializer(serializers.ModelSerializer):
    """A calendar. The address that one is fetched from is not shown again: it often bears a key."""

    kind = serializers.ChoiceField(choices=CalendarKind.choices, read_only=True)
    source = serializers.ChoiceField(choices=CalendarSource.choices, read_only=True)
    deeds = serializers.ListField(child=serializers.CharField(), read_only=True, help_text='["*"] for everything')
    is_stale = serializers.SerializerMethodField(help_text="fetched from elsewhere, and not for a day")
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = Calendar
        fields = ("id", *FIELDS, "host", "read_at", "fetch_at", "failures", "error", "is_stale", "created_at", "url")
        read_only_fields = fields

    def get_is_stale(self, calendar: Calendar) -> bool:
        return calendar.is_stale(now())

    def get_url(self, calendar: Calendar) -> str:
        return self.context["request"].build_absolute_uri(calendar.get_absolute_url())


class PeriodSerializer(serializers.Serializer):
    """From `start` up to and without `end`."""

    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    title = serializers.CharField()


class CalendarDetailSerializer(CalendarSerializer):
    """A calendar, with what holds now and what comes."""

    current = serializers.SerializerMethodField()
    coming = serializers.SerializerMethodField(help_text=f"the next {MOST_LISTED} at most, within {HORIZON.days} days")

    class Meta(CalendarSerializer.Meta):
        fields = (*CalendarSerializer.Meta.fields, "current", "coming")
        read_only_fields = fields

    def to_representation(self, calendar: Calendar):
        self.moment = now()
        end = self.moment + HORIZON
        self.periods: list[Period] = between(calendar.text, calendar.zone, self.moment, end) if calendar.text else []
        return super().to_representation(calendar)

    @extend_schema_field(PeriodSerializer(allow_null=True))
    def get_current(self, calendar: Calendar) -> dict | None:
        held = next((period for period in self.periods if period.holds(self.moment)), None)
        return PeriodSerializer(held).data if held else None

    @extend_schema_field(PeriodSerializer(many=True))
    def get_coming(self, calendar: Calendar) -> list:
        coming = [period for period in self.periods if not period.holds(self.moment)]
        return PeriodSerializer(coming[:MOST_LISTED], many=True).data


class ChangeCalendarSerializer(Asked):
    """What of a calendar can be changed; where its periods come from cannot."""

    name = serializers.CharField(max_length=80)
    kind = serializers.ChoiceField(choices=CalendarKind.choices, required=False)
    deeds = serializers.ListField(
        child=serializers.ChoiceField(choices=BINDABLE), required=False, help_text='["*"] for everything'
    )
    targets = serializers.CharField(max_length=MOST_CHARACTERS, required=False, help_text="an expression, as env=prod")
    zone = serializers.CharField(max_length=64, required=False, help_text="IANA name")
    note = serializers.CharField(max_length=512, required=False, allow_blank=True)
    enabled = serializers.BooleanField(required=False)
    url = serializers.CharField(
        max_length=2000, required=False, write_only=True, help_text="of source url: from where it is fetched"
    )
    text = serializers.CharField(
        max_length=MOST_BYTES,
        required=False,
        write_only=True,
        trim_whitespace=False,
        help_text="of source upload: iCalendar",
    )


class NewCalendarSerializer(ChangeCalendarSerializer):
    """A calendar to be made. What is left out: a freeze, kept here, of everything, for all, in UTC, enabled."""

    source = serializers.ChoiceField(choices=CalendarSource.choices, required=False)


class Calendars(ApiView, generics.ListAPIView):
    """The calendars, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = CalendarSerializer
    queryset = Calendar.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("kind", str, enum=CalendarKind.values),
            OpenApiParameter("source", str, enum=CalendarSource.values),
            OpenApiParameter("enabled", bool),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = Calendar.objects.visible_to(self.request.user)
        for name, values in (("kind", CalendarKind.values), ("source", CalendarSource.values)):
            if value := choice_in(self.request, name, values):
                found = found.filter(**{name: value})
        if (enabled := flag_in(self.request, "enabled")) is not None:
            found = found.filter(enabled=enabled)
        return found

    @extend_schema(
        operation_id="calendars_create",
        request=NewCalendarSerializer,
        responses={201: CalendarDetailSerializer},
        examples=[
            OpenApiExample(
                "A freeze", {"name": "Year's end", "targets": "env=prod", "zone": "Europe/Berlin"}, request_only=True
            ),
            OpenApiExample(
                "A feed",
                {"name": "Games", "source": "url", "url": "https://calendar.example.com/games.ics"},
                request_only=True,
            ),
        ],
    )
    def post(self, request):
        """Make a calendar. One of source `url` is fetched once, now: what cannot be read is not kept."""
        given = {"source": CalendarSource.OWN.value} | NewCalendarSerializer.of(request)
        calendar = services.create_calendar(actor=request.user, **given)
        return Response(_shown(request, calendar), status=201)


class OneCalendar(ApiView):
    """One calendar."""

    scopes = {"GET": READ, "PATCH": WRITE, "DELETE": WRITE}
    permissions = {"GET": SEE, "PATCH": CHANGE, "DELETE": CHANGE}

    @extend_schema(operation_id="calendars_get", responses=CalendarDetailSerializer)
    def get(self, request, pk):
        return Response(_shown(request, _calendar(request, pk)))

    @extend_schema(
        operation_id="calendars_change",
        request=ChangeCalendarSerializer(partial=True),
        responses=CalendarDetailSerializer,
    )
    def patch(self, request, pk):
        """Change what is sent of it; the rest stays, its address too."""
        calendar = _calendar(request, pk)
        given = ChangeCalendarSerializer.of(request, partial=True)
        kept = {name: getattr(calendar, name) for name in FIELDS if name != "source"}
        services.change_calendar(calendar, actor=request.user, **(kept | given))
        return Response(_shown(request, calendar))

    @extend_schema(operation_id="calendars_delete", responses={204: None})
    def delete(self, request, pk):
        """Delete it: it binds nothing any more."""
        services.delete_calendar(_calendar(request, pk), actor=request.user)
        return Response(status=204)


class FetchCalendar(ApiView):
    """A calendar's feed."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="calendars_fetch", request=None, responses={202: CalendarDetailSerializer})
    def post(self, request, pk):
        """Have a worker fetch it now; `read_at` and `error` tell what came of it."""
        calendar = _calendar(request, pk)
        services.require_address(calendar)
        tasks.refetch.delay(str(calendar.pk))
        return Response(_shown(request, calendar), status=202)


class CalendarFile(ApiView):
    """A calendar as a file."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="calendars_ics", responses={(200, "text/calendar"): OpenApiTypes.STR})
    def get(self, request, pk):
        """All of it as iCalendar, for other programs."""
        calendar = _calendar(request, pk)
        return HttpResponse(services.file_of(calendar), content_type="text/calendar; charset=utf-8")


class EntrySerializer(serializers.ModelSerializer):
    """A period of a calendar that is kept here. Times are of the calendar's zone."""

    start = serializers.CharField(source="starts", read_only=True)
    end = serializers.CharField(source="ends", read_only=True)
    repeat = serializers.CharField(read_only=True, help_text=f"empty, or {', '.join(filter(None, Repeat.values))}")

    class Meta:
        model = Entry
        fields = ("id", "title", "start", "end", "repeat", "until")
        read_only_fields = fields


class NewEntrySerializer(Asked):
    """A period to be put in."""

    title = serializers.CharField(max_length=120)
    start = LocalTimeField(help_text="of the calendar's zone: 2026-12-20T18:00")
    end = LocalTimeField(help_text="of the calendar's zone: 2026-12-20T18:00")
    repeat = serializers.ChoiceField(choices=Repeat.choices, required=False, allow_blank=True)
    until = serializers.DateField(required=False, allow_null=True, help_text="last day on which it may begin")


class Entries(ApiView, generics.ListAPIView):
    """The periods of a calendar that is kept here."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = EntrySerializer
    queryset = Entry.objects.none()
    newest_first = False

    @extend_schema(operation_id="calendars_entries")
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return _calendar(self.request, self.kwargs["pk"]).entries.all()

    @extend_schema(
        operation_id="calendars_entries_add",
        request=NewEntrySerializer,
        responses={201: EntrySerializer},
        examples=[
            OpenApiExample(
                "Each Friday night",
                {
                    "title": "Closing of books",
                    "start": "2026-12-04T18:00",
                    "end": "2026-12-05T06:00",
                    "repeat": "WEEKLY",
                    "until": "2027-01-31",
                },
                request_only=True,
            )
        ],
    )
    def post(self, request, pk):
        """Put a period into it."""
        calendar = _calendar(request, pk)
        entry = services.add_entry(calendar, actor=request.user, **NewEntrySerializer.of(request))
        return Response(EntrySerializer(entry).data, status=201)


class OneEntry(ApiView):
    """One period of a calendar."""

    scopes = {"DELETE": WRITE}
    permissions = {"DELETE": CHANGE}

    @extend_schema(operation_id="calendars_entries_remove", responses={204: None})
    def delete(self, request, pk, entry):
        """Take it out."""
        services.remove_entry(get_object_or_404(_calendar(request, pk).entries, pk=entry), actor=request.user)
        return Response(status=204)


class HoldSerializer(serializers.Serializer):
    """Why it has to wait."""

    calendar = serializers.CharField()
    title = serializers.CharField(help_text="of the freeze; empty where no window is open")
    until = serializers.DateTimeField(allow_null=True, help_text="null: not within sight")
    text = serializers.CharField(source="__str__")


class CheckSerializer(Asked):
    """Which deed, when, on what."""

    deed = serializers.ChoiceField(choices=list(DEEDS))
    at = serializers.DateTimeField(required=False)
    facts = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class GateSerializer(serializers.Serializer):
    """Whether it may be done then, as far as calendars go."""

    deed = serializers.CharField()
    at = serializers.DateTimeField()
    is_open = serializers.BooleanField()
    holds = HoldSerializer(many=True)
    changes_at = serializers.DateTimeField(
        allow_null=True, help_text=f"when the answer is the other one; null: not within {HORIZON.days} days"
    )


class Check(ApiView):
    """What the calendars in force hold."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(
        operation_id="calendars_check",
        parameters=[
            OpenApiParameter("deed", str, required=True, enum=list(DEEDS)),
            OpenApiParameter("at", OpenApiTypes.DATETIME, description="Left out: now."),
            OpenApiParameter(
                "facts",
                str,
                description="The instance: `env=prod, region=eu-west-1`; id, name, account, region, zone, platform, "
                "else a tag.",
            ),
        ],
        responses=GateSerializer,
    )
    def get(self, request):
        """Would this deed be held on such an instance then, by which calendar, and until when?"""
        asked = CheckSerializer(data=request.query_params.dict())
        asked.is_valid(raise_exception=True)
        given = {"at": now()} | asked.validated_data
        with in_field("facts"):
            facts = facts_of(given["facts"])
        gate = services.ask(given["deed"], facts, given["at"])
        answer = {"is_open": gate.is_open, "holds": gate.holds, "changes_at": gate.changes_at}
        return Response(GateSerializer({**given, **answer}).data)


def _calendar(request, pk) -> Calendar:
    return get_object_or_404(Calendar.objects.visible_to(request.user), pk=pk)


def _shown(request, calendar: Calendar) -> dict:
    return CalendarDetailSerializer(calendar, context={"request": request}).data


urlpatterns = [
    path("calendars/", Calendars.as_view(), name="calendars"),
    path("calendars/check/", Check.as_view(), name="calendar_check"),
    path("calendars/<uuid:pk>/", OneCalendar.as_view(), name="calendar"),
    path("calendars/<uuid:pk>/fetch/", FetchCalendar.as_view(), name="fetch_calendar"),
    path("calendars/<uuid:pk>/ics/", CalendarFile.as_view(), name="calendar_file"),
    path("calendars/<uuid:pk>/entries/", Entries.as_view(), name="entries"),
    path("calendars/<uuid:pk>/entries/<uuid:entry>/", OneEntry.as_view(), name="entry"),
]
