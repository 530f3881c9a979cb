"""Who buys. The address and the consent are in tables of their own."""

import uuid

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import models


class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    login = models.CharField(max_length=100, unique=True)
    USERNAME_FIELD = "login"

    class Meta:
        db_table = '"people"."person"'


class Contact(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.OneToOneField(Person, on_delete=models.CASCADE)
    email = models.EmailField()

    class Meta:
        db_table = '"people"."contact"'


class Preferences(models.Model):
    person = models.OneToOneField(Person, on_delete=models.CASCADE, primary_key=True)
    wants_email = models.BooleanField(default=False)
    wants_newsletter = models.BooleanField(default=False)
