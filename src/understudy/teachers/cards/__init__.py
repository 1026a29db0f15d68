"""Cards of the built-in teachers: data only, a file for each family."""

from understudy.teachers.cards.discogs import DISCOGS
from understudy.teachers.cards.efficientat import EFFICIENTAT
from understudy.teachers.cards.mule import MULE
from understudy.teachers.cards.panns import PANNS
from understudy.teachers.cards.passt import PASST
from understudy.teachers.cards.spectral import SPECTRAL

CARDS = {card.name: card for card in (SPECTRAL, *EFFICIENTAT, DISCOGS, PASST, PANNS, MULE)}
