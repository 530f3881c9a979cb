from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest

from dates.models import DatePlan, Plan, User


@admin.register(User)
class AccountAdmin(UserAdmin):
    fieldsets = (*(UserAdmin.fieldsets or ()), ("Notifications", {"fields": ["email_notifications_enabled"]}))


@admin.register(Plan)
class PlanAdmin(admin.ModelAdmin):
    search_fields = ["place"]


@admin.register(DatePlan)
class DatePlanAdmin(admin.ModelAdmin):
    list_display = ["user", "plan", "status"]
    list_filter = ["status"]
    list_select_related = ["user", "plan"]
    actions = ["mark_as_verified"]

    @admin.action(description="Mark as verified", permissions=["change"])
    def mark_as_verified(self, request: HttpRequest, queryset: QuerySet[DatePlan]) -> None:
        # One UPDATE statement, for which Django sends no signal.
        changed = queryset.update(status=DatePlan.Status.VERIFIED)
        self.message_user(request, f"{changed} verified.", messages.SUCCESS)
