"""The models of a project in which people plan dates. None of them knows about emails."""

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    email_notifications_enabled = models.BooleanField(default=False)


class Plan(models.Model):
    place = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.place


class DatePlan(models.Model):
    class Status(models.TextChoices):
        PENDING = "PE", "Pending"
        VERIFIED = "VE", "Verified"
        CANCELLED = "CA", "Cancelled"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="date_plans")
    plan = models.ForeignKey(Plan, on_delete=models.CASCADE, related_name="date_plans")
    status = models.CharField(max_length=2, choices=Status, default=Status.PENDING)

    def __str__(self) -> str:
        return f"{self.user} at {self.plan}: {self.get_status_display()}"
