"""Makes bank payments as people and banks write them in six countries, each with the right answer beside it.

    python tests/bench/corpus.py --seed 1 --payments 100000 --into FOLDER

Writes orders.jsonl, payments.jsonl, truth.jsonl and rules/<channel>.yaml. The same seed gives the same files.

A corpus is made of scenes. A scene is one case: a few customers, their orders, the payments, and what is right. Scenes
can't disturb each other: no number, symbol or account is used in two of them, whoever pays for others is nobody's
namesake, and a name that decides comes again only after thousands of payments. So an answer follows from its scene
alone, and nothing but counters has to be kept in memory. check() doesn't rely on that: it looks at a whole corpus
afresh and says where an answer doesn't follow from the data.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Row = dict[str, Any]


class Share(NamedTuple):
    """How much of a corpus is of one kind."""

    percent: float
    channels: str
    what: str
    payments: float = 1
    """How many payments one scene has, on average."""


_ALL = "cz sk ro ua ru de"

SHARES: dict[str, Share] = {
    # Named plainly
    "clean_symbol": Share(24.9, "cz sk", "the symbol stands in its own field"),
    "symbol_in_message": Share(7.0, "cz sk", "the symbol stands in the message or the end-to-end id, in any writing"),
    "order_number": Share(11.0, _ALL, "the order number stands in the text"),
    "invoice_number": Share(11.0, _ALL, "the invoice number stands in the text"),
    "rf": Share(3.0, "sk de", "an RF reference stands in the text, in groups, in one piece or in small letters"),
    "end_to_end": Share(2.0, "cz sk ro de", "the payer gave the order number as end-to-end id"),
    # Named in an untidy way
    "written_differently": Share(4.0, _ALL, "dashes, dots, spaces, zeros, look-alike letters in the number"),
    "cut_text": Share(2.5, _ALL, "the bank cut the text into lines of 35 or 140 characters"),
    "many_numbers": Share(3.0, _ALL, "phones, dates, postcodes, customer numbers and amounts stand beside the number"),
    "bare_number": Share(1.0, "cz sk ro ua ru", "the number without its letters; amount and name agree"),
    "inside_number_beside": Share(0.4, _ALL, "another order's number stands inside a longer one, beside the right one"),
    "constant_symbol_and_text": Share(0.4, "cz sk", "a constant symbol where the symbol belongs; the text names it"),
    # Somebody else pays
    "family": Share(2.5, _ALL, "named rightly, the amount is exact; somebody pays who is no customer"),
    "group_named": Share(0.7, _ALL, "a company pays for a customer of its group and names the order"),
    "group_account": Share(0.4, _ALL, "a company's known account, no reference; one order of its group fits"),
    "group_account_not_unique": Share(0.2, _ALL, "a company's known account, no reference; two orders of it fit"),
    # Another amount, another number of payments
    "short": Share(1.4, _ALL, "named rightly by the customer himself; too little came"),
    "over": Share(1.1, _ALL, "named rightly by the customer himself; too much came"),
    "within_tolerance": Share(1.5, _ALL, "named rightly; rounded, or less a bank's fee"),
    "parts": Share(1.8, _ALL, "paid in parts, each of which names it", 2.3),
    "several_named": Share(1.6, _ALL, "one customer's orders, all named; the sum is exact"),
    "several_named_off": Share(0.5, _ALL, "several orders are named, and no choice of them comes to the amount"),
    "duplicate": Share(1.4, _ALL, "the same payment twice; the second has nothing left to settle", 2),
    # The payer's known account
    "account_known": Share(2.0, _ALL, "no reference; a known account, and one order of its owner fits exactly"),
    "account_two_fit": Share(0.4, _ALL, "no reference; two orders of the account's owner have this amount"),
    "account_of_two": Share(0.4, _ALL, "no reference; the account is known for two customers"),
    "account_off": Share(0.3, _ALL, "no reference; a known account, and no choice of its orders comes to the amount"),
    "account_set": Share(0.6, _ALL, "no reference; a known account, and one choice of its orders comes to the amount"),
    "account_set_not_unique": Share(0.3, _ALL, "the same, but two choices come to it"),
    # Two orders are named, or one by two
    "two_named_one_fits": Share(0.5, _ALL, "two orders of one customer are named, one has exactly this amount"),
    "two_named_two_customers": Share(0.4, _ALL, "orders of two customers are named; the payer is not the fitting one"),
    "reused_symbol": Share(0.3, "sk", "two channels gave out one symbol; name and amount, or the rest, tell"),
    "reused_symbol_open": Share(0.2, "sk", "two channels gave out one symbol; nothing tells the orders apart"),
    "old_symbol": Share(0.5, "cz sk", "the symbol of an own paid order; his one open order has exactly this amount"),
    "old_symbol_same_amount": Share(0.3, "cz sk", "the same, but the paid order had this amount too"),
    # Named wrongly
    "typo_nothing_named": Share(1.0, _ALL, "one digit off, no such order; name and amount point at the one beside it"),
    "typo_nothing": Share(0.8, _ALL, "one digit off, no such order; the name is not given, or the amount is another"),
    "typo_other_same_amount": Share(0.3, "cz sk", "one digit off, somebody else's order of the same amount"),
    "typo_other_amount": Share(0.5, "cz sk", "one digit off, somebody else's order of another amount"),
    "other_order": Share(0.3, "cz sk", "somebody else's symbol; the payer's own order has this amount"),
    # Not named
    "constant_symbol_alone": Share(0.4, "cz sk", "a constant symbol where the symbol belongs, and nothing else"),
    "amount_only": Share(1.3, _ALL, "one open order has this amount, and nothing says that it is for it"),
    "name_and_amount": Share(1.2, _ALL, "name and amount agree with an order; a name never decides by itself"),
    "inside_number": Share(0.4, _ALL, "an order of this amount is named only inside a longer number"),
    "nothing_ours": Share(0.8, _ALL, "money that is for no order"),
    "payout": Share(0.3, _ALL, "a gateway's lump sum"),
    # Not to be settled
    "late": Share(0.7, _ALL, "named rightly, but the order is cancelled, expired or returned"),
    "wrong_currency": Share(0.4, _ALL, "named rightly, but paid in another currency"),
    "refund": Share(0.7, _ALL, "money went out that names an order"),
    "outgoing": Share(1.4, _ALL, "money went out that names none"),
}  # fmt: skip
"""The kinds of payments, with their share in per cent; the realistic ones are common and the cruel ones rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A sales channel: how its numbers, its names and its money look. The n-th order has the n-th of each number."""

    name: str
    title: str
    currency: str
    language: str
    accounts: tuple[str, ...]
    source: str
    order: str
    order_pattern: str
    first_order: int
    invoice: str
    invoice_pattern: str
    first_invoice: int
    first_symbol: int | None = None
    rf: bool = False
    room: int = 390_000
    tolerance: str
    percent: str = "0"
    prices: tuple[int, ...]
    postage: int

    def limit(self, open_: int) -> int:
        """Return the largest difference, in minor units, that the channel lets pass."""
        return max(int(Decimal(self.tolerance) * 100), int(open_ * Decimal(self.percent) / 100))

    @property
    def rules(self) -> Row:
        """The channel's document, as far as matching needs it."""
        return {
            "channel": self.name,
            "title": self.title,
            "currency": self.currency,
            "language": self.language,
            "seller": {"name": self.title},
            "accounts": list(self.accounts),
            "references": {"order_number": self.order_pattern, "invoice_number": self.invoice_pattern},
            "tolerance": {"absolute": self.tolerance, "percent": self.percent},
        }


# One company sells to Slovakia and Germany, and takes the money of both on this account.
SHARED_ACCOUNT = "SK2599100000001900260111"

_EURO_PRICES = (990, 1290, 1490, 1990, 2490, 2990, 3990, 4990, 7990, 9900)

CHANNELS = {
    channel.name: channel
    for channel in (
        Channel(
            name="cz",
            title="Čajovna Na Rohu",
            currency="CZK",
            language="cs",
            accounts=("CZ2799100000001900260111", "CZ3799100000001900260222"),
            source="fio",
            order="CZ{:06}",
            order_pattern="CZ[0-9]{6}",
            first_order=100_000,
            invoice="FV26{:06}",
            invoice_pattern="FV[0-9]{8}",
            first_invoice=1,
            first_symbol=100_000,
            room=890_000,
            tolerance="1.00",
            prices=(29000, 49000, 49900, 59000, 79000, 99000, 129000, 149000, 199000, 249000),
            postage=7900,
        ),
        Channel(
            name="sk",
            title="Čajovňa Na Rohu",
            currency="EUR",
            language="cs",
            accounts=(SHARED_ACCOUNT,),
            source="camt-sk",
            order="SK-{:06}",
            order_pattern="SK[0-9]{6}",
            first_order=400_000,
            invoice="FS26{:06}",
            invoice_pattern="FS[0-9]{8}",
            first_invoice=1,
            first_symbol=2026_400_000,
            rf=True,
            room=590_000,
            tolerance="0.10",
            prices=_EURO_PRICES,
            postage=390,
        ),
        Channel(
            name="ro",
            title="Ceainăria din Colț",
            currency="RON",
            language="ro",
            accounts=("RO40EXMP0000RON000260211",),
            source="mt940-ro",
            order="CMD{:06}",
            order_pattern="CMD[0-9]{6}",
            first_order=500_000,
            invoice="FCT{:06}",
            invoice_pattern="FCT[0-9]{6}",
            first_invoice=100_000,
            tolerance="0.50",
            prices=(4900, 5900, 8900, 9900, 12900, 14900, 19900, 24900, 29900),
            postage=1900,
        ),
        Channel(
            name="ua",
            title="Чайна на розі",
            currency="UAH",
            language="uk",
            accounts=("UA199991000000026000000260211",),
            source="csv-ua",
            order="{:06}",
            order_pattern="[0-9]{6}",
            first_order=500_000,
            invoice="СФ-{:07}",
            invoice_pattern="СФ[0-9]{7}",
            first_invoice=100_000,
            tolerance="1.00",
            prices=(29000, 39000, 49900, 59000, 79000, 99000, 129900, 149000, 249000),
            postage=7000,
        ),
        Channel(
            name="ru",
            title="Чайная на углу",
            currency="RUB",
            language="ru",
            accounts=("40702810900000260211",),
            source="1c",
            order="ИМ-{:06}",
            order_pattern="ИМ[0-9]{6}",
            first_order=500_000,
            invoice="УТ-{:06}",
            invoice_pattern="УТ[0-9]{6}",
            first_invoice=100_000,
            tolerance="1.00",
            prices=(99000, 149000, 199000, 249000, 299000, 390000, 499000, 799000),
            postage=35000,
        ),
        Channel(
            name="de",
            title="Teestube am Eck",
            currency="EUR",
            language="en",
            accounts=("DE49999100000000260211", SHARED_ACCOUNT),
            source="camt-de",
            order="2026-{:06}",
            order_pattern="20[0-9]{8}",
            first_order=1_000,
            invoice="RE2026-{:06}",
            invoice_pattern="RE20[0-9]{8}",
            first_invoice=1_000,
            first_symbol=2026_001_000,
            rf=True,
            tolerance="0.10",
            percent="0.5",
            prices=_EURO_PRICES,
            postage=490,
        ),
    )
}
_WEIGHTS = {"cz": 30, "sk": 14, "ro": 14, "ua": 14, "ru": 14, "de": 14}

# Numbers of this remainder are given to no order, so that a wrong digit can lead to nothing.
_EVERY, _HOLE = 7, 3


# What people are called. Who pays for others has a given name that no customer has, so that he is nobody's namesake;
# the last four are for those whose name decides.


@dataclass(frozen=True)
class _Names:
    men: Sequence[str]
    women: Sequence[str]
    surnames: Sequence[str]
    trades: Sequence[str]
    proper: Sequence[str]
    forms: Sequence[str]
    endings: Sequence[str]
    titles: Sequence[str] = ()
    fathers: Sequence[str] = ()
    letters: str = "latin"

    @cached_property
    def rare(self) -> list[str]:
        """Surnames that few have, put together from sounds; most people have such a one."""
        begins, middles = _SOUNDS[self.letters]
        return [f"{begin}{middle}{end}" for begin in begins for middle in middles for end in self.endings]


_SOUNDS = {
    "latin": (
        "B Br D Dr F H Hr J K Kr L M N P Pr R S St T V Z".split(),
        "ab al av eb el er ob ol or ud um".split(),
    ),
    "cyrillic": (
        "Б Бр Г Гр Д Др З К Кр Л М Н П Пр Р С Ст Т Хр Ч".split(),
        "аб ав ал еб ел об ол ор уб ул ум".split(),
    ),
}


_CUSTOMERS, _OUTSIDERS, _DISTINCT = slice(0, 12), slice(12, 16), slice(16, 20)

_NAMES = {
    "cz": _Names(
        "Jan Petr Pavel Tomáš Martin Jakub Lukáš Ondřej Václav Marek Jiří Filip "
        "Matěj Oldřich Hynek Břetislav Ctibor Kryštof Řehoř Vítězslav".split(),
        "Jana Eva Hana Lenka Petra Kateřina Lucie Alena Věra Markéta Tereza Zuzana "
        "Libuše Růžena Božena Květa Apolena Žofie Ludmila Bohdana".split(),
        "Novák Svoboda Dvořák Černý Procházka Kučera Veselý Horák Němec Pokorný Pospíšil Hájek Jelínek Král Růžička "
        "Beneš Fiala Sedláček Doležal Zeman Kolář Navrátil Čermák Vaněk Urban Blažek Kříž Kopecký Šimek Říha Bartoš "
        "Vlček Polák Musil Kadlec Štěpánek Konečný Malý Čech Holub Tichý Bílek Žák Vávra".split(),
        "Kavárna|Pekárna|Penzion|Obchod|Restaurace|Čajový dům|Ateliér|Dílna".split("|"),
        "Zlatý kohout|Modrý kruh|Na Výsluní|Pod Kaštany|Bílá paní|Tři lípy|Starý mlýn|U Řeky|Červená řepa|Šípek".split(
            "|"
        ),
        ["s.r.o.", "a.s.", "s.r.o."],
        "ák ek ík ata ota uš eš ula áček".split(),
        ["Ing. ", "Mgr. ", "MUDr. ", "Bc. "],
    ),
    "sk": _Names(
        "Ján Peter Pavol Tomáš Martin Jakub Lukáš Ondrej Marek Juraj Michal Jozef "
        "Ľudovít Dušan Štefan Vladislav Cyprián Metod Svätopluk Gorazd".split(),
        "Jana Eva Hana Lenka Petra Katarína Lucia Alena Viera Zuzana Monika Mária "
        "Ľudmila Anežka Božena Želmíra Apolónia Žofia Svetlana Bronislava".split(),
        "Kováč Horváth Varga Tóth Nagy Baláž Molnár Lukáč Oravec Hudák Krajčír Slovák Šimko Gajdoš Polák Mikuš Bartoš "
        "Urban Kráľ Žák Ďurica Ľupták Hruška Kubiš Mráz Rybár Straka Sokol Vlk Zajac Čierny Biely Malý Veselý "
        "Pokorný Kučera Benko Hlaváč Tkáč Sedlák".split(),
        "Kaviareň|Pekáreň|Penzión|Obchod|Reštaurácia|Čajovňa|Ateliér|Dielňa".split("|"),
        "Zlatý kohút|Modrý kruh|Pod Gaštanmi|Biela pani|Tri lipy|Starý mlyn|Pri Rieke|Červená repa|Šípka|Ďateľ".split(
            "|"
        ),
        ["s.r.o.", "a.s.", "s. r. o."],
        "ák ek ík ata ota uš ec ula ík".split(),
        ["Ing. ", "Mgr. ", "MUDr. "],
    ),
    "ro": _Names(
        "Ion Andrei Mihai Alexandru Ștefan Cristian George Vlad Radu Bogdan Florin Adrian "
        "Dumitru Gheorghe Costin Traian Decebal Zamfir Eustațiu Neagoe".split(),
        "Maria Elena Ioana Andreea Ana Cristina Raluca Simona Mihaela Alina Roxana Diana "
        "Paraschiva Măriuca Sânziana Florica Ruxandra Zamfira Eufrosina Despina".split(),
        "Popescu Ionescu Popa Rădulescu Dumitrescu Stan Stoica Gheorghiu Matei Ciobanu Rusu Constantinescu "
        "Șerban Lazăr Coman Florea Nistor Tudor Manole Bălan Neagu Mocanu Vasilescu Crăciun Țurcanu Ungureanu Sandu "
        "Anghel Barbu Dragomir Enache Filip Grigorescu Iordache Lungu Moldovan Olteanu Pârvu Săvulescu Toma".split(),
        "Cafenea|Brutărie|Pensiunea|Magazin|Restaurant|Atelier|Ceainăria".split("|"),
        "Cocoșul de Aur|Cercul Albastru|La Castani|Doamna Albă|Trei Tei|Moara Veche|Pe Mal|Sfecla Roșie|Măceșul".split(
            "|"
        ),
        ["SRL", "S.R.L.", "SA"],
        "escu eanu aru oiu ache iuc ilă".split(),
    ),
    "ua": _Names(
        "Тарас Іван Петро Олександр Андрій Сергій Микола Василь Юрій Богдан Дмитро Олег "
        "Остап Данило Захар Северин Всеволод Мстислав Ярополк Гордій".split(),
        "Оксана Олена Ірина Наталія Тетяна Людмила Галина Марія Юлія Світлана Анна Вікторія "
        "Соломія Уляна Мотря Параска Ярослава Мирослава Златослава Святослава".split(),
        "Шевченко Коваленко Бондаренко Ткаченко Кравченко Олійник Шевчук Коваль Поліщук Бойко Мельник Кравчук Лисенко "
        "Марченко Савченко Руденко Мороз Петренко Клименко Павленко Гончаренко Романюк Левченко Харченко Карпенко "
        "Пономаренко Панченко Мазур Хоменко Яценко Ґалаґан Їжакевич Щербак Журавель Сидоренко Гаврилюк Данилюк "
        "Заєць Кузьменко Литвин".split(),
        "Кав’ярня|Пекарня|Крамниця|Ресторан|Майстерня|Готель".split("|"),
        "Золотий півень|Синє коло|Під каштанами|Біла пані|Три липи|Старий млин|Біля річки|Шипшина|Їжачок".split("|"),
        ["ТОВ", "ПП", "ТОВ"],
        "енко чук юк ак ець ало ура".split(),
        fathers="Іванович/Іванівна Петрович/Петрівна Миколайович/Миколаївна Васильович/Василівна Андрійович/Андріївна "
        "Сергійович/Сергіївна Олегович/Олегівна Степанович/Степанівна".split(),
        letters="cyrillic",
    ),
    "ru": _Names(
        "Иван Пётр Алексей Сергей Дмитрий Андрей Николай Михаил Павел Артём Егор Олег "
        "Аркадий Геннадий Прохор Савелий Вячеслав Мстислав Ростислав Ярополк".split(),
        "Анна Елена Ольга Наталья Ирина Татьяна Мария Светлана Юлия Екатерина Галина Дарья "
        "Аглая Пелагея Прасковья Устинья Ярослава Мирослава Рогнеда Любава".split(),
        "Иванов Смирнов Кузнецов Попов Васильев Соколов Михайлов Новиков Фёдоров Морозов Волков Алексеев Лебедев "
        "Семёнов Егоров Павлов Козлов Степанов Николаев Орлов Андреев Макаров Никитин Захаров Зайцев Соловьёв Борисов "
        "Яковлев Григорьев Романов Воробьёв Сергеев Кузьмин Фролов Дмитриев Королёв Гусев Киселёв Ильин".split(),
        "Кофейня|Пекарня|Лавка|Ресторан|Мастерская|Гостиница".split("|"),
        "Золотой петух|Синий круг|Под каштанами|Белая дама|Три липы|Старая мельница|У реки|Шиповник|Ёжик".split("|"),
        ["ООО", "АО", "ООО"],
        "анов ышев кин ников енков яев".split(),
        fathers="Иванович/Ивановна Петрович/Петровна Николаевич/Николаевна Васильевич/Васильевна Андреевич/Андреевна "
        "Сергеевич/Сергеевна Олегович/Олеговна Степанович/Степановна".split(),
        letters="cyrillic",
    ),
    "de": _Names(
        "Hans Peter Thomas Michael Andreas Stefan Jürgen Klaus Wolfgang Jörg Uwe Markus "
        "Ägidius Gottfried Hubertus Eberhard Kunibert Lothar Wendelin Siegbert".split(),
        "Ursula Monika Petra Sabine Renate Karin Brigitte Andrea Claudia Susanne Käthe Birgit "
        "Adelheid Gudrun Mechthild Ottilie Kunigunde Roswitha Walburga Sieglinde".split(),
        "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein "
        "Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Krause Lehmann "
        "Köhler Maier König Huber Kaiser Fuchs Groß Jäger Böhm Weiß Günther".split(),
        "Café|Bäckerei|Pension|Laden|Gasthaus|Teehaus|Werkstatt".split("|"),
        "Goldener Hahn|Blauer Kreis|Zu den Kastanien|Weiße Frau|Drei Linden|Alte Mühle|Am Fluss|Rote Rübe|Igel".split(
            "|"
        ),
        ["GmbH", "UG", "GmbH & Co. KG"],
        "mann er bach berg stein meier feld hofer".split(),
        ["Dr. ", "Prof. Dr. "],
    ),
}


def _woman(channel: str, surname: str) -> str:
    """Return a surname as a woman bears it."""
    if channel in ("cz", "sk"):
        for ending, hers in (("ý", "á"), ("a", "ová"), ("ek", "ková")):
            if surname.endswith(ending):
                return surname[: -len(ending)] + hers
        return surname + "ová"
    return surname + "а" if channel == "ru" else surname


def _choices(table: dict[str, str]) -> dict[str, list[str]]:
    return {channel: texts.split("|") for channel, texts in table.items()}


# What people and banks write. {n} is the number, {d} the order's day, {a} the amount, {v} the tax in it,
# {c} a customer's number, {r5} any five digits.

_ORDER = _choices(
    {
        "cz": "Objednávka {n}|obj. {n}|platba za objednávku {n}|úhrada obj. č. {n}|{n}|{n} děkuji|čaj, objednávka {n}",
        "sk": "Objednávka {n}|obj. {n}|platba za objednávku {n}|úhrada obj. č. {n}|{n}|{n} ďakujem|čaj, objednávka {n}",
        "ro": "plata comanda {n}|comanda {n} din {d}|achitat comanda nr. {n}|c/v comanda {n}|{n}|ceai {n} multumesc",
        "ua": "Оплата за замовлення № {n}|Оплата за товар зам. № {n} від {d} р., в т.ч. ПДВ 20% - {v} грн."
        "|замовлення {n}|за чай, замовлення № {n}, без ПДВ|Сплата замовлення №{n}",
        "ru": "Оплата заказа № {n}|Оплата по заказу {n} от {d} за товар. В том числе НДС 20% - {v} руб."
        "|заказ {n}|За чай, заказ № {n}. НДС не облагается|Оплата за товар, заказ №{n}",
        "de": "Bestellung {n}|Best.-Nr. {n} vielen Dank|Auftrag {n}|SVWZ+Bestellung {n} EREF+NOTPROVIDED|Tee {n}"
        "|SVWZ+{n} KD-Nr {c} EREF+NOTPROVIDED|Bestellung {n} vom {d}",
    }
)
_INVOICE = _choices(
    {
        "cz": "Faktura {n}|fa {n}|úhrada faktury č. {n}|faktura {n} ze dne {d}|{n}|platba faktury {n} děkuji",
        "sk": "Faktúra {n}|fa {n}|úhrada faktúry č. {n}|faktúra {n} zo dňa {d}|{n}|platba faktúry {n} ďakujem",
        "ro": "plata factura {n} din {d}|C/V FACT. {n}/{d}|plata fact {n}|achitat factura {n}|OP 12 plata fact. {n}",
        "ua": "Оплата за товар зг. рах. № {n} від {d} р., в т.ч. ПДВ 20% - {v} грн.|Сплата рахунку {n} від {d}, без ПДВ"
        "|За чай зг. рахунку-фактури {n} від {d}р. у т.ч. ПДВ {v}|рах. {n}",
        "ru": "Оплата по счету № {n} от {d} за товар. В том числе НДС 20% - {v} руб.|Оплата по счёту {n}. Без НДС"
        "|За товар по сч. № {n} от {d} г. НДС не облагается|Сумма {a} по счету {n}",
        "de": "Rechnung {n}|RE-Nr. {n} vom {d}|SVWZ+{n} KD-Nr {c} EREF+NOTPROVIDED|Rechnungsnr. {n}|{n}"
        "|SVWZ+Rg. {n} vom {d} EREF+NOTPROVIDED",
    }
)
_IDLE = _choices(
    {
        "cz": "Platba|čaj|děkuji|za zboží|nákup|Platba za zboží, děkujeme|objednávka z e-shopu|úhrada faktury",
        "sk": "Platba|čaj|ďakujem|za tovar|nákup|úhrada faktúry|objednávka z e-shopu",
        "ro": "plata|ceai|multumesc|c/v marfa|plata factura|plata comanda online",
        "ua": "Оплата за товар|за чай|Оплата за товар, без ПДВ|Переказ особистих коштів|дякую",
        "ru": "Оплата за товар|за чай|Перевод средств|Оплата за товар. НДС не облагается|спасибо",
        "de": "Tee|Rechnung|vielen Dank|SVWZ+Rechnung EREF+NOTPROVIDED|Einkauf|Bestellung Online",
    }
)
_FILLERS = {
    "cz": "platba za čajové zboží objednané v e-shopu pro kancelář a pro hosty penzionu u lesa, prosíme o potvrzení "
    "příjmu na známou adresu a o zaslání do konce měsíce, ",
    "sk": "platba za čajový tovar objednaný v e-shope pre kanceláriu a pre hostí penziónu pri lese, prosíme o "
    "potvrdenie prijatia na známu adresu a o zaslanie do konca mesiaca, ",
    "ro": "plata pentru ceaiurile comandate din magazinul online pentru birou si pentru oaspetii pensiunii de langa "
    "padure, va rugam sa confirmati primirea la adresa cunoscuta pana la sfarsitul lunii, ",
    "ua": "оплата за чай та чайне приладдя, замовлені в інтернет-крамниці для офісу та гостей готелю біля лісу, "
    "просимо підтвердити надходження на відому адресу до кінця місяця, ",
    "ru": "оплата за чай и чайные принадлежности, заказанные в интернет-магазине для офиса и гостей гостиницы у леса, "
    "просим подтвердить получение на известный адрес до конца месяца, ",
    "de": "Zahlung für Tee und Zubehör aus dem Onlineladen für das Büro und die Gäste der Pension am Wald, wir bitten "
    "um Bestätigung des Eingangs an die bekannte Anschrift bis zum Monatsende, ",
}
_NOISE = _choices(
    {
        "cz": "tel. 60{r2} {r3} {r3}|60{r7}|6{r2} 00 Brno|zák. č. {r5}|částka {a} Kč|ze dne {d}|IČO 999{r5}|{d}"
        "|z účtu 19{r4}/9910|balík 2 ks|Dlouhá {r2}|datum narození 1{r1}.5.197{r1}",
        "sk": "tel. 090{r1} {r3} {r3}|090{r7}|8{r2} 01 Bratislava|zák. č. {r5}|suma {a} EUR|zo dňa {d}|IČO 999{r5}|{d}"
        "|z účtu 41{r4}/9910|balík 2 ks|Dlhá {r2}",
        "ro": "tel. 07{r8}|07{r2} {r3} {r3}|Cluj 40{r4}|client nr. {r5}|suma {a} lei|din {d}|CUI RO99{r6}|{d}|OP {r3}"
        "|str. Lungă {r2}|2 pachete",
        "ua": "тел. 067{r7}|067 {r3} {r2} {r2}|0{r4} Київ|код клієнта {r5}|сума {a} грн|від {d}|ІПН 99{r8}|ЄДРПОУ {r8}"
        "|вул. Довга, {r2}|2 пачки|код клієнта 50{r4}",
        "ru": "тел. 8 9{r2} {r3}-{r2}-{r2}|89{r9}|12{r4}, Москва|код клиента {r5}|сумма {a} руб.|от {d}|ИНН 99{r8}"
        "|КПП 99{r7}|ул. Длинная, {r2}|2 упаковки",
        "de": "Tel. 0171 {r7}|0171{r7}|10{r3} Berlin|KD-Nr {r5}|Betrag {a} EUR|vom {d}|USt-Id DE99{r7}|{d}|Am Weg {r2}"
        "|2 Pakete",
    }
)
_CONTRACT = {
    "cz": "smlouva {n}",
    "sk": "zmluva {n}",
    "ro": "contract {n}",
    "ua": "договір {n}",
    "ru": "договор {n}",
    "de": "Vertrag {n}",
}
_AND = {"cz": " a ", "sk": " a ", "ro": " si ", "ua": " та ", "ru": " и ", "de": " und "}
_ABOUT = {"cz": "č. ", "sk": "č. ", "ro": "nr. ", "ua": "№ ", "ru": "№ ", "de": "Nr. "}
_NOT_OURS = _choices(
    {
        "cz": "nájem 11/2026|vratka pojistného|přeplatek energie|půjčka|úroky",
        "sk": "nájom 11/2026|vratka poistného|preplatok energie|pôžička|úroky",
        "ro": "chirie 11/2026|restituire asigurare|imprumut|dobanda",
        "ua": "оренда за 11/2026|повернення позики|відсотки за депозитом",
        "ru": "аренда за 11/2026|возврат займа|проценты по депозиту",
        "de": "Miete 11/2026|Erstattung Versicherung|Darlehen|Zinsen",
    }
)
_LEFT = _choices(
    {
        "cz": "poplatek za vedení účtu|mzda 10/2026|dodavatel čaje, faktura 9{r7}|DPH",
        "sk": "poplatok za vedenie účtu|mzda 10/2026|dodávateľ čaju, faktúra 9{r7}|DPH",
        "ro": "comision administrare cont|salarii 10/2026|furnizor ceai fact. 9{r7}|TVA",
        "ua": "комісія банку|заробітна плата за жовтень|постачальник чаю, рах. 9{r7}|ПДВ",
        "ru": "комиссия банка|заработная плата за октябрь|поставщик чая, сч. 9{r7}|НДС",
        "de": "Kontoführung|Gehalt 10/2026|Teelieferant Rg. 9{r7}|USt",
    }
)
_BACK = {
    "cz": "vratka",
    "sk": "vrátenie",
    "ro": "retur",
    "ua": "повернення коштів",
    "ru": "возврат",
    "de": "Erstattung",
}

_SYMBOLS_WRITTEN = (
    "VS{n}|VS:{n}|VS: {n}|VS {n}|/VS/{n}/SS//KS/0308|/VS{n}/SS/KS0308|VS:000{n}|VS000{n}|var.symbol {n}"
    "|Variabilní symbol: {n}|v.s. {n}|vs={n}|V.S.: {n}|VS {half} {rest}|VS {half}-{rest}|vs.{n} děkuji|var. sym. {n}"
).split("|")
_CONSTANT_SYMBOLS = ("0308", "308", "0558", "558", "0008")
_LOOK_ALIKES = str.maketrans("CEMKTOXAСМТУ", "СЕМКТОХАCMTY")


def _latin() -> dict[int, str]:
    """Return the Latin letters with marks and what banks make of them."""
    plain = {code: unicodedata.normalize("NFD", chr(code))[0] for code in (*range(0xC0, 0x250), *range(0x218, 0x21C))}
    return {code: letter for code, letter in plain.items() if letter.isascii()} | {ord("ß"): "ss"}


_WITHOUT_MARKS = _latin()
_AE = {ord(a): b for a, b in zip("äöüßÄÖÜ", ("ae", "oe", "ue", "ss", "Ae", "Oe", "Ue"), strict=True)}


def without_marks(text: str) -> str:
    """Drop the marks of Latin letters, as banks with an old character set do."""
    return text.translate(_WITHOUT_MARKS)


def money(minor: int) -> str:
    """Write an amount as the files have it."""
    return f"{'-' if minor < 0 else ''}{abs(minor) // 100}.{abs(minor) % 100:02}"


def minor(amount: str) -> int:
    """Read an amount of the files."""
    return int(Decimal(amount) * 100)


def one_off(number: str) -> list[str]:
    """Return every number that one wrong digit, or two that changed places, make of a number."""
    wrong = [
        number[:place] + digit + number[place + 1 :]
        for place in range(len(number))
        for digit in "0123456789"
        if digit != number[place]
    ]
    swapped = [
        number[:place] + number[place + 1] + number[place] + number[place + 2 :]
        for place in range(len(number) - 1)
        if number[place] != number[place + 1]
    ]
    return wrong + swapped


def choices_of(amounts: Sequence[int], amount: int, slack: int = 0) -> int:
    """Count the choices of amounts that come to an amount, give or take the slack."""
    return sum(
        abs(sum(chosen) - amount) <= slack
        for size in range(1, len(amounts) + 1)
        for chosen in combinations(amounts, size)
    )


@dataclass(slots=True, kw_only=True)
class _Customer:
    id: str
    name: str
    holder: str
    """The name as the account is in."""
    surname: str
    is_woman: bool
    is_company: bool
    account: str
    is_known: bool
    group: str | None

    @property
    def row(self) -> Row:
        row: Row = {"id": self.id, "name": self.name}
        if self.is_known:
            row["accounts"] = [self.account]
        if self.group:
            row["group"] = self.group
        return row


@dataclass(slots=True, kw_only=True)
class _Order:
    channel: Channel
    index: int
    customer: _Customer
    total: int
    open: int
    status: str
    placed: date
    number: str
    invoice: str
    symbol: str | None


@dataclass(slots=True)
class _Named:
    """How a payment says what it is for."""

    message: str | None = None
    symbol: str | None = None
    end_to_end_id: str | None = None


class _World:
    """What goes through a whole corpus: counters, the calendar, and what is made but not written yet."""

    first_day = date(2026, 9, 1)
    days = 60

    def __init__(self, seed: int, payments: int) -> None:
        self.rng = random.Random(seed)
        self.wanted = payments
        self.made = 0
        self.orders: list[Row] = []
        self._waiting: list[tuple[date, int, Row, Row]] = []
        self._last = dict.fromkeys(CHANNELS, 0)
        self._kept: dict[str, set[int]] = {name: set() for name in CHANNELS}
        self._serial = self.rng.randrange(10**9)
        self._distinct = dict.fromkeys(CHANNELS, 0)

    @property
    def today(self) -> date:
        """The day to which the payments made so far come."""
        return self.first_day + timedelta(days=self.made * self.days // self.wanted)

    def serial(self) -> int:
        """Return a number that nothing else gets."""
        self._serial += 1
        return self._serial

    def distinct(self, channel: Channel) -> int:
        """Return how many distinct names a channel had before."""
        self._distinct[channel.name] += 1
        return self._distinct[channel.name] - 1

    def index(self, channel: Channel) -> int:
        """Return the place of a channel's next order among its numbers."""
        place = self._last[channel.name] + (2 if self.rng.random() < 0.2 else 1)
        while place % _EVERY == _HOLE or place in self._kept[channel.name]:
            place += 1
        if place >= channel.room:
            raise ValueError(f"{self.wanted} payments are more than channel {channel.name} has numbers for")
        self._last[channel.name] = place
        return place

    def keep(self, channel: Channel, indexes: Iterable[int]) -> int | None:
        """Take one of the places that come soon and are still free, if there is any."""
        last, kept = self._last[channel.name], self._kept[channel.name]
        soon = min(last + 5_000, channel.room)
        free = [each for each in indexes if last < each < soon and each % _EVERY != _HOLE and each not in kept]
        if not free:
            return None
        place = self.rng.choice(free)
        kept.add(place)
        return place

    def put(self, day: date, payment: Row, truth: Row) -> None:
        """Keep a payment until its day has come."""
        payment["booked_on"] = day.isoformat()
        self.made += 1
        heapq.heappush(self._waiting, (day, self.made, payment, truth))

    def booked(self, before: date) -> Iterator[tuple[Row, Row]]:
        """Give out the payments booked before a day, in their order."""
        while self._waiting and self._waiting[0][0] < before:
            yield heapq.heappop(self._waiting)[2:]


class Scene:
    """One case, in one channel: makes its customers, orders and payments."""

    def __init__(self, world: _World, kind: str) -> None:
        self.world = world
        self.rng = world.rng
        self.kind = kind
        self.channel = CHANNELS[self._one_of(SHARES[kind].channels.split())]
        self.day = world.today

    def _one_of(self, channels: list[str]) -> str:
        return self.rng.choices(channels, [_WEIGHTS[name] for name in channels])[0]

    def happens(self, share: float) -> bool:
        """Say yes in a share of cases."""
        return self.rng.random() < share

    def fill(self, text: str) -> str:
        """Put digits in the places for them."""
        return re.sub(r"\{r([0-9])\}", lambda found: self.digits(int(found[1])), text)

    def digits(self, count: int) -> str:
        """Return any digits, of which the first is no zero."""
        return str(self.rng.randrange(10 ** (count - 1), 10**count))

    # Amounts

    def amount(self) -> int:
        """Return a price: often one of a few that many orders have."""
        channel, chance = self.channel, self.rng.random()
        if chance < 0.55:
            return self.rng.choice(channel.prices)
        if chance < 0.8:
            return self.rng.choice(channel.prices) * self.rng.randint(1, 3) + channel.postage
        return self.unusual_amount()

    def unusual_amount(self) -> int:
        """Return an amount that hardly any other order has."""
        return self.rng.randrange(self.channel.prices[0], self.channel.prices[-1] * 6)

    def amounts(self, count: int) -> list[int]:
        """Return amounts that differ by more than the channel lets pass, and of which none is the sum of others."""
        while True:
            found = [self.amount() for _ in range(count)]
            slack = 2 * self.channel.limit(sum(found))
            if all(choices_of(found, each, slack) == 1 for each in found):
                return found

    def off(self, amount: int) -> int:
        """Return a difference that is plainly more than the channel lets pass."""
        return self.channel.limit(amount) * 2 + self.rng.randrange(amount // 20, amount // 2)

    # People

    def customer(
        self,
        *,
        is_known: bool | None = None,
        is_company: bool | None = None,
        group: str | None = None,
        given: slice = _CUSTOMERS,
        unlike: _Customer | None = None,
        surname: str | None = None,
    ) -> _Customer:
        """Make somebody with an account, which the shop knows or doesn't."""
        channel, rng, names = self.channel.name, self.rng, _NAMES[self.channel.name]
        is_woman, company = self.happens(0.5), self.happens(0.12) if is_company is None else is_company
        first = rng.choice((names.women if is_woman else names.men)[given])
        last = surname or self._surname(names)
        while unlike and not surname and last == unlike.surname:
            last = self._surname(names)
        born = _woman(channel, last) if is_woman else last
        father = rng.choice(names.fathers).split("/")[is_woman] if names.fathers else ""
        if given is _DISTINCT and not company:
            first, born, father, company = *self._distinct_name(names, is_woman=is_woman), False
        if company:
            name = holder = self._company(names, is_distinct=given is _DISTINCT)
        elif father:
            holder = f"{born} {first} {father}"
            name = rng.choice((holder, f"{first} {born}", f"{born} {first}")) if given is not _DISTINCT else holder
            if self.happens(0.08):
                trader = "ФОП" if channel == "ua" else "ИП"
                name, holder = f"{trader} {name}", f"{trader} {holder}"
        else:
            name = holder = f"{first} {born}"
        return _Customer(
            id=f"K{self.world.serial()}",
            name=name,
            holder=holder,
            surname=last,
            is_woman=is_woman,
            is_company=company,
            account=self.account(),
            is_known=self.happens(0.3) if is_known is None else is_known,
            group=group,
        )

    def _surname(self, names: _Names) -> str:
        return self.rng.choice(names.surnames if self.happens(0.35) else names.rare)

    def _company(self, names: _Names, *, is_distinct: bool) -> str:
        proper, form = names.proper if self.happens(0.2) else names.rare, self.rng.choice(names.forms)
        what = f"{self.rng.choice(names.trades)} {self.rng.choice(proper)}"
        if is_distinct:
            pairs = list(combinations(names.surnames, 2))
            round_, place = divmod(self.world.distinct(self.channel), len(pairs))
            what = f"{' & '.join(pairs[place])} {names.proper[round_ % len(names.proper)]}"
        if self.channel.name in ("ua", "ru"):
            return f"{form} «{what}»"
        return f"{what} {form}"

    def _distinct_name(self, names: _Names, *, is_woman: bool) -> tuple[str, str, str]:
        """Return a name that nobody has had for thousands of payments: a rare given name, and another combination."""
        place = self.world.distinct(self.channel)
        given = (names.women if is_woman else names.men)[_DISTINCT]
        first, place = given[place % len(given)], place // len(given)
        last = names.rare[place % len(names.rare)]
        place //= len(names.rare)
        born = _woman(self.channel.name, last) if is_woman else last
        if names.fathers:
            return first, born, names.fathers[place % len(names.fathers)].split("/")[is_woman]
        others = [other for other in given if other != first]
        return f"{first} {others[place % len(others)]}", born, ""

    def outsider(self, *, kin: _Customer | None = None) -> _Customer:
        """Make somebody who has never bought anything: one of the same family, or with another surname."""
        same = kin is not None and not kin.is_company and self.happens(0.6)
        return self.customer(
            is_known=False,
            is_company=False,
            given=_OUTSIDERS,
            unlike=kin,
            surname=kin.surname if kin and same else None,
        )

    def account(self) -> str:
        """Return an account that nobody else has, at a bank that doesn't exist."""
        serial, bank = self.world.serial() * 7919 % 10**10, self.rng.choice("123")
        match self.channel.name:
            case "cz" if self.happens(0.5):
                return f"{serial}/99{bank}0"
            case "cz":
                return _iban("CZ", f"99{bank}0{serial:016}")
            case "sk":
                return _iban("SK", f"99{bank}0{serial:016}")
            case "de":
                return _iban("DE", f"99{bank}00000{serial:010}")
            case "ro":
                return _iban("RO", f"EXM{'PQR'[int(bank) - 1]}0000{serial:012}")
            case "ua":
                return _iban("UA", f"999{bank}00{serial:019}")
            case _:
                return f"40817810{serial:012}"

    def account_written(self, account: str) -> str:
        """Return an account as a statement writes it: now and then in groups, padded, or in its other form."""
        if self.happens(0.85):
            return account
        if "/" in account:
            number, bank = account.split("/")
            padded = f"{int(number):016}"
            return self.rng.choice((f"000000-{int(number):010}/{bank}", _iban("CZ", bank + padded)))
        if account.isdigit():
            return account
        return " ".join(account[place : place + 4] for place in range(0, len(account), 4))

    def name_written(self, customer: _Customer, *, clearly: bool) -> str | None:
        """Return a payer's name as banks write it; clearly, whoever compares it with the order's can tell."""
        name, channel = customer.holder, self.channel.name
        parts = name.split()
        if not clearly:
            if self.happens(0.05):
                return None
            if channel == "ru" and not customer.is_company and self.happens(0.2):
                # Some banks show private payers to others so.
                return f"{parts[-2]} {parts[-1]} {parts[-3][0]}."
            if channel == "de" and self.happens(0.2):
                name = name.translate(_AE)
            if channel in ("cz", "sk") and self.happens(0.05):
                name = name[:20].strip()
        if customer.is_company:
            name = name.replace("s.r.o.", self.rng.choice(("s.r.o.", "s. r. o.", "SRO")))
            name = name.replace("«", '"').replace("»", '"') if self.happens(0.5) else name
        elif channel not in ("ua", "ru"):
            if self.happens(0.2):
                name = f"{parts[-1]} {' '.join(parts[:-1])}"
            elif (titles := _NAMES[channel].titles) and self.happens(0.05):
                name = self.rng.choice(titles) + name
        return self._by_the_bank(name)

    def _by_the_bank(self, text: str) -> str:
        chance = self.rng.random()
        if chance < 0.25:
            text = text.upper()
        return without_marks(text) if 0.15 < chance < 0.5 else text

    # Orders

    def order(
        self,
        customer: _Customer,
        total: int | None = None,
        *,
        status: str | None = "",
        paid: int = 0,
        index: int | None = None,
        symbol: str | None = None,
        keeps_id: bool = True,
    ) -> _Order:
        """Place an order, some days before the payments of the scene."""
        channel, rng = self.channel, self.rng
        index = self.world.index(channel) if index is None else index
        total = self.amount() if total is None else total
        placed = self.day - timedelta(days=rng.choice((0, 1, 1, 2, 2, 3, 4, 6)))
        if status == "":
            status = rng.choice(("awaiting_payment", "awaiting_payment", "awaiting_payment", "new", None))
        order = _Order(
            channel=channel,
            index=index,
            customer=customer,
            total=total,
            open=total - paid,
            status=status or "awaiting_payment",
            placed=placed,
            number=channel.order.format(channel.first_order + index),
            invoice=channel.invoice.format(channel.first_invoice + index),
            symbol=symbol or (str(channel.first_symbol + index) if channel.first_symbol is not None else None),
        )
        buyer = customer.row
        if not keeps_id and self.happens(0.15):
            del buyer["id"]
        row: Row = {
            "number": order.number,
            "channel": channel.name,
            "currency": channel.currency,
            "total": money(total),
            "placed_at": f"{placed}T{rng.randrange(6, 22):02}:{rng.randrange(60):02}:00+00:00",
            "status": status,
            "variable_symbol": order.symbol,
            "invoice_number": order.invoice,
            "rf": rf_of(order.symbol) if channel.rf and order.symbol else None,
            "customer": buyer,
            "paid": money(paid) if paid else None,
        }
        self.world.orders.append({key: value for key, value in row.items() if value is not None})
        return order

    def paid_order(self, customer: _Customer, total: int | None = None) -> _Order:
        """Place an order that was paid long ago."""
        total = self.amount() if total is None else total
        return self.order(customer, total, paid=total, status=self.rng.choice(("completed", "delivered", "paid")))

    def bystander(self) -> None:
        """Place an order that no payment of the corpus is for."""
        customer, total, chance = self.customer(), self.amount(), self.rng.random()
        if chance < 0.5:
            self.order(customer, total, keeps_id=False)
        elif chance < 0.75:
            self.paid_order(customer, total)
        elif chance < 0.9:
            self.order(customer, total, status=self.rng.choice(("cancelled", "expired")))
        else:
            self.order(customer, total, paid=total // 3)

    # Words

    def words(self, table: dict[str, list[str]], number: str, order: _Order) -> str:
        """Put a number into one of the sentences that people write in this country."""
        spoken = money(order.open).replace(".", "," if self.channel.name in ("ua", "de", "cz", "sk") else ".")
        tax = money(order.open // 6).replace(".", "," if self.channel.name == "ua" else ".")
        text = self.rng.choice(table[self.channel.name])
        return text.format(n=number, d=f"{order.placed:%d.%m.%Y}", a=spoken, v=tax, c=self.digits(4))

    def idle(self) -> str | None:
        """Return a text that says nothing, or none."""
        return None if self.happens(0.3) else self.message(self.rng.choice(_IDLE[self.channel.name]))

    def message(self, text: str) -> str:
        """Return a text as the bank passes it on."""
        chance = self.rng.random()
        if chance < 0.3:
            text = text.upper()
        return without_marks(text) if 0.15 < chance < 0.6 else text

    def invoice(self, order: _Order) -> str:
        """Return an invoice number as it is, or with the space that everybody writes."""
        spaced = self.channel.name in ("ro", "de") and self.happens(0.5)
        return re.sub("^([A-Z]+)", r"\1 ", order.invoice) if spaced else order.invoice

    def in_text(self, order: _Order) -> str:
        """Name an order in a sentence, by its number or its invoice's."""
        if self.happens(0.5):
            return self.words(_ORDER, order.number, order)
        return self.words(_INVOICE, self.invoice(order), order)

    def symbol_in_text(self, symbol: str) -> str:
        """Name a symbol in any writing."""
        written = self.rng.choice(_SYMBOLS_WRITTEN)
        if len(symbol) == 10:
            written = written.replace("000{n}", "{n}")
        half = len(symbol) // 2
        text = written.format(n=symbol, half=symbol[:half], rest=symbol[half:])
        return f"{self.rng.choice(_IDLE[self.channel.name])} {text}" if self.happens(0.2) else text

    def by_symbol(self, symbol: str) -> _Named:
        """Name a symbol in the field for it."""
        return _Named(symbol=symbol.zfill(10) if self.happens(0.3) else symbol, message=self.idle())

    def plainly(self, order: _Order) -> _Named:
        """Name an order in one of the usual ways of its country."""
        chance = self.rng.random()
        if order.symbol and self.channel.name in ("cz", "sk"):
            if chance < 0.6:
                return self.by_symbol(order.symbol)
            if chance < 0.8:
                return _Named(message=self.message(self.symbol_in_text(order.symbol)))
        if self.channel.name == "de" and order.symbol and chance < 0.2:
            return _Named(message=rf_of(order.symbol))
        return _Named(message=self.message(self.in_text(order)), end_to_end_id=self.no_end_to_end_id())

    def no_end_to_end_id(self) -> str | None:
        """Return the bank's word for none, where banks have one."""
        return "NOTPROVIDED" if self.channel.name in ("sk", "de") and self.happens(0.5) else None

    # Payments

    def pay(
        self,
        amount: int,
        by: _Customer | None,
        named: _Named | None = None,
        *,
        settles: _Order | Sequence[_Order] = (),
        why: str = "",
        clearly: bool = False,
        account: str | None = None,
        currency: str | None = None,
        later: int = 0,
    ) -> None:
        """Make a payment, with its answer; settles says what, and nothing leaves it to a person."""
        channel, named = self.channel, named or _Named()
        orders = [settles] if isinstance(settles, _Order) else list(settles)
        allocations = [{"order": order.number, "amount": money(taken)} for order, taken in _settled(amount, orders)]
        id_ = f"{channel.source}-{self.world.made + 1:07}"
        payment: Row = {
            "id": id_,
            "source": channel.source,
            "account": account or self.rng.choice(channel.accounts),
            "amount": money(amount),
            "currency": currency or channel.currency,
            "booked_on": None,
            "payer_name": self.name_written(by, clearly=clearly) if by else None,
            "payer_account": self.account_written(by.account) if by else None,
            "variable_symbol": named.symbol,
            "end_to_end_id": named.end_to_end_id,
            "provider_reference": f"FT26{self.digits(9)}" if channel.name == "ro" and self.happens(0.5) else None,
            "message": named.message,
        }
        truth: Row = {
            "payment": id_,
            "kind": self.kind,
            "decidable": bool(orders),
            "allocations": allocations,
            "why": why or SHARES[self.kind].what,
        }
        day = self.day + timedelta(days=later)
        self.world.put(day, {key: value for key, value in payment.items() if value or key == "booked_on"}, truth)


def _settled(amount: int, orders: Sequence[_Order]) -> Iterator[tuple[_Order, int]]:
    """Share a payment out over the orders that it settles, and take it off them."""
    if len(orders) > 1:
        if sum(order.open for order in orders) != amount:
            raise ValueError("several orders are settled whole or not at all")
        for order in orders:
            yield order, order.open
            order.open = 0
        return
    for order in orders:
        close = abs(amount - order.open) <= order.channel.limit(order.open)
        yield order, amount if close else min(amount, order.open)
        order.open = 0 if close else max(order.open - amount, 0)


def _iban(country: str, rest: str) -> str:
    spelled = "".join(str(int(letter, 36)) for letter in f"{rest}{country}00")
    return f"{country}{98 - int(spelled) % 97:02}{rest}"


def rf_of(reference: str) -> str:
    """Return the ISO 11649 reference with its check digits."""
    return f"RF{98 - int(f'{reference}271500') % 97:02}{reference}"


# The scenes, each named as its kind in SHARES

SCENES: dict[str, Callable[[Scene], None]] = {}


def scene(make: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Enter a scene under its name."""
    SCENES[make.__name__] = make
    return make


def _one(s: Scene) -> tuple[_Customer, _Order]:
    """Make a customer with an order, and now and then another one that waits for its money too."""
    customer = s.customer()
    alone = not s.happens(0.12)
    order = s.order(customer, keeps_id=not alone)
    if not alone:
        s.order(customer)
    return customer, order


@scene
def clean_symbol(s: Scene) -> None:
    customer, order = _one(s)
    s.pay(order.open, customer, s.by_symbol(order.symbol or ""), settles=order)


@scene
def symbol_in_message(s: Scene) -> None:
    customer, order = _one(s)
    symbol = order.symbol or ""
    if s.channel.name == "sk" and s.happens(0.5):
        written = s.rng.choice((f"/VS{symbol}/SS/KS0308", f"/VS{symbol}/SS/KS", f"/VS{symbol}/SS000/KS0308"))
        named = _Named(end_to_end_id=written, message=s.idle())
    else:
        named = _Named(message=s.message(s.symbol_in_text(symbol)), end_to_end_id=s.no_end_to_end_id())
    s.pay(order.open, customer, named, settles=order)


@scene
def order_number(s: Scene) -> None:
    customer, order = _one(s)
    text = s.message(s.words(_ORDER, order.number, order))
    s.pay(order.open, customer, _Named(text, end_to_end_id=s.no_end_to_end_id()), settles=order)


@scene
def invoice_number(s: Scene) -> None:
    customer, order = _one(s)
    text = s.message(s.words(_INVOICE, s.invoice(order), order))
    s.pay(order.open, customer, _Named(text, end_to_end_id=s.no_end_to_end_id()), settles=order)


@scene
def rf(s: Scene) -> None:
    customer, order = _one(s)
    plain = rf_of(order.symbol or "")
    grouped = " ".join(plain[place : place + 4] for place in range(0, len(plain), 4))
    written = s.rng.choice((plain, plain, grouped, grouped, plain.lower(), grouped.lower()))
    if s.happens(0.2):
        named = _Named(s.idle(), end_to_end_id=plain)
    else:
        named = _Named(f"{s.rng.choice(('', 'Ref. ', 'SVWZ+'))}{written}", end_to_end_id=s.no_end_to_end_id())
    s.pay(order.open, customer, named, settles=order)


@scene
def end_to_end(s: Scene) -> None:
    customer, order = _one(s)
    written = s.rng.choice((order.number, order.number, order.number.replace("-", ""), order.number.lower()))
    s.pay(order.open, customer, _Named(s.idle(), end_to_end_id=written), settles=order)


def scrawl(s: Scene, number: str) -> str:
    """Write a number as people do who don't look closely."""
    letters, digits = re.findall("^([^0-9]*)([0-9-]+)$", number)[0]
    letters = letters.strip("-")
    if not letters and "-" not in digits:
        return s.rng.choice((f"{digits[:3]} {digits[3:]}", f"{digits[:3]}-{digits[3:]}", f"№{digits}", f"0{digits}"))
    if "-" in digits:
        year, rest = digits.split("-")
        between = s.rng.choice(("/", " ", ".", "", " - ", "–", "-0", "/"))
        short = s.happens(0.1) and rest[0] == "0"
        digits = f"{year}-{rest.lstrip('0')}" if short else f"{year}{between}{rest}"
    elif s.happens(0.3):
        place = len(digits) - 3 if len(digits) == 6 else 2
        digits = f"{digits[:place]}{s.rng.choice(' -.')}{digits[place:]}"
    elif letters and s.happens(0.15):
        digits = f"0{digits}"
    letters = s.rng.choice((letters, letters, letters.lower(), letters.translate(_LOOK_ALIKES)))
    return f"{letters}{s.rng.choice(('', ' ', '-', '.', '/', '–', ' - ')) if letters else ''}{digits}"


@scene
def written_differently(s: Scene) -> None:
    customer, order = _one(s)
    invoiced = s.happens(0.5)
    number = order.invoice if invoiced else order.number
    while (written := scrawl(s, number)) == number:
        pass
    text = s.message(s.words(_INVOICE if invoiced else _ORDER, written, order))
    s.pay(order.open, customer, _Named(text), settles=order, clearly=True)


@scene
def cut_text(s: Scene) -> None:
    customer, order = _one(s)
    number = s.rng.choice((order.number, order.invoice))
    if order.symbol and s.channel.name in ("cz", "sk") and s.happens(0.4):
        number = f"VS{order.symbol}"
    length, name = s.rng.choice((35, 35, 140)), s.channel.name
    filler, about = _FILLERS[name], _ABOUT[name]
    # Most cuts that matter go through the number itself.
    room = length - (s.rng.randrange(1, len(number)) if s.happens(0.7) else s.rng.randrange(len(number), 30))
    before = f"{filler}{filler}"[: room - len(about) - 1]
    after = f" {s.rng.choice(_IDLE[name])}" if s.happens(0.5) else ""
    text = s.message(f"{before} {about}{number}{after}")
    lines = [text[place : place + length] for place in range(0, len(text), length)]
    s.pay(order.open, customer, _Named("\n".join(lines)), settles=order, clearly=True)


@scene
def many_numbers(s: Scene) -> None:
    customer, order = _one(s)
    pieces = [s.fill(each) for each in s.rng.sample(_NOISE[s.channel.name], s.rng.randint(2, 4))]
    spoken = money(order.open).replace(".", ",")
    pieces = [piece.format(a=spoken, d=f"{order.placed:%d.%m.%Y}") for piece in pieces]
    pieces.insert(s.rng.randrange(len(pieces) + 1), s.in_text(order))
    text = s.message(s.rng.choice((", ", "; ", ", ", "\n")).join(pieces))
    s.pay(order.open, customer, _Named(text), settles=order, clearly=True)


@scene
def bare_number(s: Scene) -> None:
    customer, order = _one(s)
    name = s.channel.name
    if name == "ua" or (name in ("ro", "ru") and s.happens(0.5)):
        number, table = re.sub("[^0-9]", "", order.invoice).lstrip("0"), _INVOICE
    else:
        number, table = order.symbol if name == "cz" and order.symbol else order.number[-6:], _ORDER
    s.pay(order.open, customer, _Named(s.message(s.words(table, number, order))), settles=order, clearly=True)


@scene
def inside_number_beside(s: Scene) -> None:
    customer, order = _one(s)
    other = s.order(s.customer(unlike=customer), order.total)
    text = f"{s.in_text(order)}, {_longer(s, other)}"
    s.pay(order.open, customer, _Named(s.message(text)), settles=order, clearly=True)


def _longer(s: Scene, order: _Order) -> str:
    """Write a longer number with an order's own inside, as something else's."""
    digits = re.sub("[^0-9]", "", order.number)
    if order.symbol and s.happens(0.5):
        digits = order.symbol
    longer = f"{s.digits(1)}{digits}{s.digits(2)}" if s.happens(0.5) else f"{digits}{s.digits(4)}"
    return _CONTRACT[s.channel.name].format(n=longer)


@scene
def constant_symbol_and_text(s: Scene) -> None:
    customer, order = _one(s)
    text = s.message(s.in_text(order))
    s.pay(order.open, customer, _Named(text, symbol=s.rng.choice(_CONSTANT_SYMBOLS)), settles=order, clearly=True)


@scene
def constant_symbol_alone(s: Scene) -> None:
    customer = s.customer(is_known=False)
    order = s.order(customer)
    payer = s.rng.choice((customer, s.outsider(), None))
    s.pay(order.open, payer, _Named(s.idle(), symbol=s.rng.choice(_CONSTANT_SYMBOLS)))


@scene
def family(s: Scene) -> None:
    customer, order = _one(s)
    s.pay(order.open, s.outsider(kin=customer), s.plainly(order), settles=order)


def _group(s: Scene, size: int) -> tuple[_Customer, list[_Customer]]:
    """Make a company whose account is known, and customers of its group whose accounts aren't."""
    group = f"G{s.world.serial()}"
    company = s.customer(is_known=True, is_company=True, group=group, given=_DISTINCT)
    return company, [s.customer(is_known=False, group=group) for _ in range(size)]


@scene
def group_named(s: Scene) -> None:
    company, members = _group(s, s.rng.choice((1, 2)))
    own, *amounts = s.amounts(1 + len(members))
    s.order(company, own, paid=own if s.happens(0.5) else 0)
    orders = [s.order(member, amount) for member, amount in zip(members, amounts, strict=True)]
    if len(orders) > 1 and s.happens(0.5):
        text = _AND[s.channel.name].join(order.number for order in orders)
        s.pay(sum(amounts), company, _Named(s.message(text)), settles=orders)
        return
    s.pay(orders[0].open, company, s.plainly(orders[0]), settles=orders[0])


@scene
def group_account(s: Scene) -> None:
    company, members = _group(s, s.rng.choice((1, 2, 3)))
    own, *amounts = s.amounts(1 + len(members))
    orders = [s.order(member, amount) for member, amount in zip(members, amounts, strict=True)]
    s.order(company, own)
    s.pay(amounts[0], company, _Named(s.idle()), settles=orders[0])


@scene
def group_account_not_unique(s: Scene) -> None:
    company, members = _group(s, 2)
    own, amount = s.amounts(2)
    s.order(company, own)
    for member in members:
        s.order(member, amount)
    s.pay(amount, company, _Named(s.idle()))


# Amounts


def _customer_s_own(s: Scene) -> tuple[_Customer, _Order]:
    customer = s.customer()
    return customer, s.order(customer)


@scene
def short(s: Scene) -> None:
    customer, order = _customer_s_own(s)
    s.pay(order.open - s.off(order.open), customer, s.plainly(order), settles=order, clearly=True)


@scene
def over(s: Scene) -> None:
    customer, order = _customer_s_own(s)
    s.pay(order.open + s.off(order.open), customer, s.plainly(order), settles=order, clearly=True)


@scene
def within_tolerance(s: Scene) -> None:
    customer = s.customer()
    order = s.order(customer, s.unusual_amount())
    limit = s.channel.limit(order.open)
    nearest = round(order.open, -2)
    off = nearest - order.open
    if not 0 < abs(off) <= limit:
        off = s.rng.choice((-1, -1, 1)) * s.rng.randint(1, limit)
    s.pay(order.open + off, customer, s.plainly(order), settles=order, clearly=True)


@scene
def parts(s: Scene) -> None:
    customer = s.customer()
    total = max(s.amount(), s.channel.prices[2])
    before = total // 4 if s.happens(0.15) else 0
    order = s.order(customer, total, paid=before)
    count = s.rng.choice((2, 2, 2, 3)) if not before else 2
    later = 0
    for left in range(count, 0, -1):
        amount = order.open if left == 1 else order.open * s.rng.randint(60, 120) // 100 // left
        amount -= amount % 100 if left > 1 and s.happens(0.7) else 0
        s.pay(amount, customer, s.plainly(order), settles=order, clearly=True, later=later)
        later += s.rng.randrange(8)


def _listed(s: Scene, orders: Sequence[_Order]) -> _Named:
    """Name several orders in one text."""
    kinds = ["number", "number", "invoice"]
    if s.channel.name in ("cz", "sk"):
        kinds.append("symbol")
    kind = s.rng.choice(kinds)
    between = s.rng.choice((", ", " + ", _AND[s.channel.name], "; ", ","))
    if kind == "symbol":
        return _Named(s.message(between.join(f"VS{order.symbol}" for order in orders)))
    if kind == "invoice":
        return _Named(s.message(s.words(_INVOICE, between.join(order.invoice for order in orders), orders[0])))
    numbers = [order.number for order in orders]
    if s.channel.name in ("cz", "ro") and s.happens(0.15):
        # The letters are written once for all.
        numbers[1:] = [number[-6:] for number in numbers[1:]]
    return _Named(s.message(s.words(_ORDER, between.join(numbers), orders[0])))


@scene
def several_named(s: Scene) -> None:
    customer = s.customer()
    orders = [s.order(customer, amount) for amount in s.amounts(s.rng.choice((2, 2, 2, 3, 3, 4)))]
    s.pay(sum(order.open for order in orders), customer, _listed(s, orders), settles=orders, clearly=True)


@scene
def several_named_off(s: Scene) -> None:
    customer = s.customer()
    amounts = s.amounts(s.rng.choice((2, 2, 3)))
    orders = [s.order(customer, amount) for amount in amounts]
    s.pay(_amount_of_none(s, amounts), customer, _listed(s, orders), clearly=True)


def _amount_of_none(s: Scene, amounts: Sequence[int]) -> int:
    """Return an amount near those that choices come to, which none of them comes to."""
    total = sum(amounts)
    while True:
        near = sum(s.rng.sample(amounts, s.rng.randint(1, len(amounts))))
        amount = near + s.rng.randrange(-total // 4, total // 4)
        if amount > 0 and not choices_of(amounts, amount, 3 * s.channel.limit(total)):
            return amount


@scene
def duplicate(s: Scene) -> None:
    customer, order = _customer_s_own(s)
    amount = order.open
    named = s.by_symbol(order.symbol) if order.symbol and s.channel.name in ("cz", "sk") else None
    named = named or _Named(s.words(_ORDER, order.number, order))
    account = s.rng.choice(s.channel.accounts)
    s.pay(amount, customer, named, settles=order, clearly=True, account=account)
    later, why = s.rng.choice((0, 0, 1, 2, 5)), "the order is paid already, by the payment before"
    s.pay(amount, customer, named, why=why, clearly=True, account=account, later=later)


# The payer's account


@scene
def account_known(s: Scene) -> None:
    customer = s.customer(is_known=True)
    amount, *others = s.amounts(s.rng.choice((1, 1, 2, 3)))
    for other in others:
        s.order(customer, other)
    order = s.order(customer, amount)
    s.pay(amount, customer, _Named(s.idle()), settles=order)


@scene
def account_two_fit(s: Scene) -> None:
    customer, amount = s.customer(is_known=True), s.amount()
    for _ in range(s.rng.choice((2, 2, 3))):
        s.order(customer, amount)
    s.pay(amount, customer, _Named(s.idle()))


@scene
def account_of_two(s: Scene) -> None:
    one = s.customer(is_known=True, is_company=False)
    other = s.customer(is_known=True, is_company=False, unlike=one)
    other.account = one.account
    amount, another = s.amounts(2)
    s.order(one, amount)
    s.order(other, amount if s.happens(0.6) else another)
    s.pay(amount, s.rng.choice((one, other)), _Named(s.idle()))


@scene
def account_off(s: Scene) -> None:
    customer = s.customer(is_known=True)
    amounts = s.amounts(s.rng.choice((1, 2, 3)))
    for amount in amounts:
        s.order(customer, amount)
    s.pay(_amount_of_none(s, amounts), customer, _Named(s.idle()))


@scene
def account_set(s: Scene) -> None:
    customer = s.customer(is_known=True)
    amounts = s.amounts(s.rng.choice((2, 3, 4)))
    chosen = len(amounts) if s.happens(0.5) else 2
    amount = sum(amounts[:chosen])
    if choices_of(amounts, amount) != 1:
        account_set(s)
        return
    orders = [s.order(customer, each) for each in amounts]
    s.pay(amount, customer, _Named(s.idle()), settles=orders[:chosen])


@scene
def account_set_not_unique(s: Scene) -> None:
    customer = s.customer(is_known=True)
    one, other = s.amounts(2)
    amounts = [one, other, s.rng.choice((one, other))]
    for amount in amounts:
        s.order(customer, amount)
    s.pay(one + other, customer, _Named(s.idle()))


# Two orders


@scene
def two_named_one_fits(s: Scene) -> None:
    customer = s.customer()
    fitting, other = (s.order(customer, amount) for amount in s.amounts(2))
    if other.symbol and s.channel.name in ("cz", "sk") and s.happens(0.4):
        named = _Named(s.message(s.in_text(fitting)), symbol=other.symbol)
    else:
        named = _listed(s, s.rng.sample((fitting, other), 2))
    s.pay(fitting.open, customer, named, settles=fitting, clearly=True)


@scene
def two_named_two_customers(s: Scene) -> None:
    one = s.customer(is_company=False)
    other = s.customer(is_company=False, unlike=one)
    amounts = s.amounts(2)
    fitting, another = s.order(one, amounts[0]), s.order(other, amounts[1])
    payer = s.rng.choice((other, s.outsider()))
    s.pay(fitting.open, payer, _listed(s, s.rng.sample((fitting, another), 2)), clearly=True)


def _two_channels(s: Scene, *, same: bool) -> tuple[_Order, _Order]:
    """Place an order in Slovakia and one in Germany that got the same symbol."""
    first, second = s.amounts(2)
    s.channel = CHANNELS["de"]
    german = s.order(s.customer(is_company=False), first)
    s.channel = CHANNELS["sk"]
    slovak = s.order(s.customer(is_company=False), first if same else second, symbol=german.symbol)
    return german, slovak


@scene
def reused_symbol(s: Scene) -> None:
    german, slovak = _two_channels(s, same=False)
    order = s.rng.choice((german, slovak))
    s.channel = order.channel
    named = s.by_symbol(order.symbol or "")
    s.pay(order.open, order.customer, named, settles=order, clearly=True, account=SHARED_ACCOUNT)


@scene
def reused_symbol_open(s: Scene) -> None:
    german, _ = _two_channels(s, same=True)
    payer = s.rng.choice((s.outsider(), None))
    s.pay(german.open, payer, s.by_symbol(german.symbol or ""), account=SHARED_ACCOUNT)


@scene
def old_symbol(s: Scene) -> None:
    customer = s.customer(is_company=False)
    before, now = s.amounts(2)
    old, order = s.paid_order(customer, before), s.order(customer, now)
    s.pay(now, customer, s.by_symbol(old.symbol or ""), settles=order, clearly=True)


@scene
def old_symbol_same_amount(s: Scene) -> None:
    customer, amount = s.customer(), s.amount()
    old = s.paid_order(customer, amount)
    s.order(customer, amount)
    s.pay(amount, customer, s.by_symbol(old.symbol or ""), clearly=True)


# Wrong numbers


def _digits_of(s: Scene, order: _Order) -> tuple[str, int]:
    """Return the digits that people copy, and the first of their kind."""
    if s.channel.name in ("cz", "sk"):
        return order.symbol or "", s.channel.first_symbol or 0
    return order.number[-6:], s.channel.first_order


def _led_to_nothing(s: Scene, order: _Order) -> _Named:
    """Name an order with a digit wrong, so that no order has the number."""
    digits, first = _digits_of(s, order)
    free = [each for each in one_off(digits) if _is_hole(int(each) - first, s.channel)]
    wrong = s.rng.choice(free)
    if s.channel.name in ("cz", "sk"):
        return s.by_symbol(wrong) if s.happens(0.75) else _Named(s.message(f"VS{wrong}"))
    return _Named(s.message(s.words(_ORDER, order.number[:-6] + wrong, order)))


def _is_hole(index: int, channel: Channel) -> bool:
    return 0 <= index < channel.room and index % _EVERY == _HOLE


@scene
def typo_nothing_named(s: Scene) -> None:
    customer = s.customer(given=_DISTINCT, is_known=False)
    order = s.order(customer)
    s.pay(order.open, customer, _led_to_nothing(s, order), settles=order, clearly=True)


@scene
def typo_nothing(s: Scene) -> None:
    customer = s.customer(is_known=False)
    order = s.order(customer)
    named = _led_to_nothing(s, order)
    if s.happens(0.6):
        why = "no order has this number, and the payer's name doesn't tell whose it is"
        s.pay(order.open, s.rng.choice((None, s.outsider())), named, why=why)
    else:
        why = "no order has this number, and the order beside it has another amount"
        s.pay(order.open + s.off(order.open), customer, named, why=why, clearly=True)


def _beside(s: Scene) -> tuple[_Order, int] | None:
    """Place a customer's order, and find the number of one that a wrong digit would lead to."""
    order = s.order(s.customer(is_company=False, is_known=False))
    digits, first = _digits_of(s, order)
    place = s.world.keep(s.channel, [int(each) - first for each in one_off(digits)])
    return None if place is None else (order, place)


@scene
def typo_other_same_amount(s: Scene) -> None:
    while not (found := _beside(s)):
        pass
    meant, place = found
    other = s.order(s.customer(is_company=False, unlike=meant.customer), meant.total, index=place)
    s.pay(meant.open, meant.customer, s.by_symbol(other.symbol or ""), clearly=True)


@scene
def typo_other_amount(s: Scene) -> None:
    while not (found := _beside(s)):
        pass
    meant, place = found
    total = meant.total + s.rng.choice((-1, 1)) * s.off(meant.total)
    other = s.order(s.customer(is_company=False, unlike=meant.customer), total, index=place)
    s.pay(meant.open, meant.customer, s.by_symbol(other.symbol or ""), clearly=True)


@scene
def other_order(s: Scene) -> None:
    customer = s.customer(is_company=False)
    own = s.order(customer)
    other = s.order(s.customer(is_company=False, unlike=customer), own.total if s.happens(0.5) else None)
    s.pay(own.open, customer, s.by_symbol(other.symbol or ""), clearly=True)


# Nothing is named


@scene
def amount_only(s: Scene) -> None:
    order = s.order(s.customer(), s.unusual_amount() if s.happens(0.7) else None)
    named = _Named(s.idle())
    if s.happens(0.3):
        noise = s.fill(s.rng.choice(_NOISE[s.channel.name]))
        named = _Named(s.message(noise.format(a=money(order.open), d=f"{order.placed:%d.%m.%Y}")))
    s.pay(order.open, s.rng.choice((None, s.outsider(), s.outsider())), named)


@scene
def name_and_amount(s: Scene) -> None:
    customer = s.customer(is_known=False)
    order = s.order(customer)
    s.pay(order.open, customer, _Named(s.idle()), clearly=True)


@scene
def inside_number(s: Scene) -> None:
    order = s.order(s.customer())
    payer = s.rng.choice((None, s.outsider()))
    if s.channel.name == "cz" and s.happens(0.4):
        s.pay(order.open, payer, _Named(s.idle(), symbol=f"{s.digits(1)}{order.symbol}{s.digits(2)}"))
        return
    s.pay(order.open, payer, _Named(s.message(_longer(s, order))))


@scene
def nothing_ours(s: Scene) -> None:
    text = s.message(s.fill(s.rng.choice(_NOT_OURS[s.channel.name])))
    symbol = f"99{s.digits(7)}" if s.channel.name in ("cz", "sk") and s.happens(0.5) else None
    s.pay(s.amount(), s.outsider(), _Named(text, symbol=symbol))


@scene
def payout(s: Scene) -> None:
    gateway = s.customer(is_known=False, is_company=True)
    gateway.name = gateway.holder = "Example Gateway Ltd."
    amount = sum(s.amount() for _ in range(s.rng.randint(12, 60)))
    symbol = f"90{s.digits(7)}" if s.channel.name in ("cz", "sk") else None
    text = f"PAYOUT {s.day:%Y-%m-%d} {s.digits(2)} TRANSACTIONS"
    s.pay(amount, gateway, _Named(text, symbol=symbol), clearly=True)


# What settles nothing


@scene
def late(s: Scene) -> None:
    customer = s.customer()
    order = s.order(customer, status=s.rng.choice(("cancelled", "expired", "expired", "returned")))
    s.pay(order.open, customer, s.plainly(order))


@scene
def wrong_currency(s: Scene) -> None:
    customer, order = _customer_s_own(s)
    currency = "USD" if s.channel.currency == "EUR" else "EUR"
    amount = order.open if s.happens(0.5) else max(order.open // 25, 100)
    s.pay(amount, customer, s.plainly(order), currency=currency)


@scene
def refund(s: Scene) -> None:
    customer = s.customer()
    order = s.paid_order(customer) if s.happens(0.8) else s.order(customer)
    text = f"{_BACK[s.channel.name]} {s.rng.choice((order.number, order.invoice))}"
    s.pay(-order.total, customer, _Named(s.message(text)))


@scene
def outgoing(s: Scene) -> None:
    payee = s.customer(is_known=False) if s.happens(0.6) else None
    s.pay(-s.amount(), payee, _Named(s.message(s.fill(s.rng.choice(_LEFT[s.channel.name])))))


# The corpus


@dataclass(frozen=True)
class Corpus:
    """A corpus, made when it is asked for; it is the same each time."""

    seed: int
    size: int

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Make it row by row: (orders, …), (payments, …) and (truth, …), each payment before its truth."""
        world = _World(self.seed, self.size)
        kinds = list(SHARES)
        weights = list(accumulate(share.percent / share.payments for share in SHARES.values()))
        left = self.size
        while world.made < self.size:
            for payment, truth in world.booked(world.today):
                yield "payments", payment
                yield "truth", truth
                left -= 1
            kind = world.rng.choices(kinds, cum_weights=weights)[0]
            stage = Scene(world, kind)
            if stage.happens(0.15):
                Scene(world, kind).bystander()
            SCENES[kind](stage)
            for order in world.orders:
                yield "orders", order
            world.orders.clear()
        # The last scene may have made more than was asked for; what is booked last is left out.
        for payment, truth in world.booked(date.max):
            if not left:
                break
            yield "payments", payment
            yield "truth", truth
            left -= 1

    @cached_property
    def _lists(self) -> dict[str, list[Row]]:
        lists: dict[str, list[Row]] = {"orders": [], "payments": [], "truth": []}
        for what, row in self.rows():
            lists[what].append(row)
        return lists

    @property
    def orders(self) -> list[Row]:
        """All orders."""
        return self._lists["orders"]

    @property
    def payments(self) -> list[Row]:
        """All payments, in the order of booking."""
        return self._lists["payments"]

    @property
    def truth(self) -> list[Row]:
        """The answers, in the order of the payments."""
        return self._lists["truth"]

    @property
    def rules(self) -> dict[str, Row]:
        """Each channel's document."""
        return {name: channel.rules for name, channel in CHANNELS.items()}

    def write(self, folder: Path) -> None:
        """Write the corpus to files."""
        (folder / "rules").mkdir(parents=True, exist_ok=True)
        for name, document in self.rules.items():
            text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
            (folder / "rules" / f"{name}.yaml").write_text(text, encoding="utf-8")
        with ExitStack() as stack:
            files = {
                what: stack.enter_context((folder / f"{what}.jsonl").open("w", encoding="utf-8"))
                for what in ("orders", "payments", "truth")
            }
            encode = json.JSONEncoder(ensure_ascii=False).encode
            for what, row in self.rows():
                files[what].write(encode(row) + "\n")


def make(seed: int, payments: int) -> Corpus:
    """Return the corpus of a seed with so many payments."""
    return Corpus(seed, payments)


# Looked at afresh


_CLOSED = ("cancelled", "expired", "returned")
_LABELLED = re.compile(
    r"(?:zak\. c\.|client nr\.|код клієнта|код клиента|kd-nr|z uctu|tel\.|тел\.|ico|іпн|инн|кпп|єдрпоу)\s*[+0-9]+"
)
_NOT_NAMES = frozenset(
    "s r o sro a as sa srl gmbh co kg ug тов пп ооо ао фоп ип ing mgr mudr bc dr prof".split()
)  # fmt: skip


def _words_of(name: str | None) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", without_marks(name or "").lower())) - _NOT_NAMES


def _same_name(one: str | None, other: str | None) -> bool:
    """Say whether two names are plainly one person's: the same words, or one leaves some out."""
    first, second = _words_of(one), _words_of(other)
    return min(len(first), len(second)) > 1 and (first <= second or second <= first)


def _account_of(written: str) -> str:
    """Bring an account to the IBAN, or to its digits."""
    plain = written.replace(" ", "")
    if found := re.fullmatch(r"(?:0*-)?0*([0-9]+)/([0-9]{4})", plain):
        return _iban("CZ", f"{found[2]}{int(found[1]):016}")
    return plain


def _digits_in(order: Row) -> set[str]:
    number, invoice = (re.sub("[^0-9]", "", order[key]).lstrip("0") for key in ("number", "invoice_number"))
    return {number, invoice, order.get("variable_symbol", number)}


class _Ledger:
    """All orders, by everything that can lead to them, and what is open of each."""

    def __init__(self, orders: Iterable[Row], rules: dict[str, Row]) -> None:
        self.rules = rules
        self.orders = {order["number"]: order for order in orders}
        self.open = {
            number: minor(order["total"]) - minor(order.get("paid", "0")) for number, order in self.orders.items()
        }
        self.by_symbol: dict[str, list[Row]] = defaultdict(list)
        self.by_account: dict[str, list[Row]] = defaultdict(list)
        self.by_group: dict[str, list[Row]] = defaultdict(list)
        self.by_words: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        self.by_digits: dict[str, list[Row]] = defaultdict(list)
        for order in self.orders.values():
            customer = order["customer"]
            if symbol := order.get("variable_symbol"):
                self.by_symbol[symbol].append(order)
            for account in customer.get("accounts", ()):
                self.by_account[_account_of(account)].append(order)
            self.by_group[customer.get("group", "")].append(order)
            for pair in combinations(sorted(_words_of(customer.get("name"))), 2):
                self.by_words[pair].append(order)
            for digits in _digits_in(order):
                self.by_digits[digits].append(order)

    def near(self, digits: str) -> Iterator[Row]:
        """Yield the orders whose digits stand anywhere in a row of digits."""
        for length in range(5, 11):
            for place in range(len(digits) - length + 1):
                yield from self.by_digits.get(digits[place : place + length], ())

    def limit(self, order: Row) -> int:
        """Return how far a payment of an order may be off."""
        tolerance, open_ = self.rules[order["channel"]]["tolerance"], self.open[order["number"]]
        return max(minor(tolerance["absolute"]), int(open_ * Decimal(tolerance["percent"]) / 100))

    def wrong(self, look: _Looked) -> str | None:
        """Say what doesn't hold of an answer whatever its kind, if anything."""
        answer, amount = look.answer, look.amount
        if answer["decidable"] != bool(answer["allocations"]):
            return "it is decidable, but nothing is allocated, or the other way round"
        taken = {each["order"]: minor(each["amount"]) for each in answer["allocations"]}
        if len(taken) != len(answer["allocations"]) or sum(taken.values()) > max(amount, 0):
            return "more is allocated than came"
        if len(look.waiting(look.settled)) != len(look.settled):
            return "what is closed, paid, of another channel or of another currency is settled"
        for order in look.settled:
            open_, share = self.open[order["number"]], taken[order["number"]]
            close = len(taken) == 1 and abs(amount - open_) <= self.limit(order)
            if share != (amount if close else min(open_, amount if len(taken) == 1 else open_)):
                return "an order gets another amount than is open"
        return None

    def settle(self, look: _Looked) -> None:
        """Take off what a payment settles."""
        for each in look.answer["allocations"]:
            order = self.orders[each["order"]]
            left = self.open[each["order"]] - minor(each["amount"])
            close = len(look.settled) == 1 and abs(look.amount - self.open[each["order"]]) <= self.limit(order)
            self.open[each["order"]] = 0 if close else left


class _Looked:
    """A payment, and what the orders say of it at its time."""

    def __init__(self, ledger: _Ledger, payment: Row, answer: Row) -> None:
        self.payment, self.answer = payment, answer
        self.amount = minor(payment["amount"])
        self.channels = {name for name, rules in ledger.rules.items() if payment["account"] in rules["accounts"]}
        self.settled = [ledger.orders[each["order"]] for each in answer["allocations"]]
        self.open = ledger.open
        self._ledger = ledger
        texts = f"{payment.get('message', '')}\n{payment.get('end_to_end_id', '')}"
        self.text = without_marks(texts.lower()).replace("\n", "")
        self._digits = re.sub("[^0-9]", "", f"{self.text} {payment.get('variable_symbol', '')}")

    def ours(self, orders: Iterable[Row]) -> list[Row]:
        """Keep the orders of the channels that own the account."""
        return [order for order in orders if order["channel"] in self.channels]

    def waiting(self, orders: Iterable[Row]) -> list[Row]:
        """Keep those that money can still settle."""
        return [
            order
            for order in self.ours(orders)
            if self.open[order["number"]] > 0
            and order["currency"] == self.payment["currency"]
            and order.get("status") not in _CLOSED
        ]

    def opens(self, orders: Iterable[Row]) -> list[int]:
        """Return what is open of each."""
        return [self.open[order["number"]] for order in orders]

    @property
    def by_symbol(self) -> list[Row]:
        """The orders that the symbol in its field means."""
        symbol = self.payment.get("variable_symbol", "").lstrip("0")
        return self.ours(self._ledger.by_symbol.get(symbol, ()))

    @property
    def by_account(self) -> list[Row]:
        """What waits of the customers whose account it came from."""
        account = _account_of(self.payment.get("payer_account", ""))
        return self.waiting(self._ledger.by_account.get(account, ()))

    @property
    def by_group(self) -> list[Row]:
        """What waits of the groups whose account it came from."""
        return self.waiting(order for group in self.groups for order in self._ledger.by_group[group])

    @property
    def groups(self) -> set[str]:
        """The groups whose account it came from."""
        account = _account_of(self.payment.get("payer_account", ""))
        return {order["customer"].get("group", "") for order in self._ledger.by_account.get(account, ())} - {""}

    @property
    def by_name(self) -> list[Row]:
        """What waits of the customers with the payer's name."""
        words = sorted(_words_of(self.payment.get("payer_name")))
        found = {order["number"]: order for pair in combinations(words, 2) for order in self._ledger.by_words[pair]}
        return [each for each in self.waiting(found.values()) if self.is_from(each)]

    @property
    def by_token(self) -> list[Row]:
        """What waits of the orders that a whole number in the text means, or the symbol in its field."""
        text = _LABELLED.sub("", self.text)
        tokens = {token.lstrip("0") for token in re.findall("[0-9]+", text)}
        found = [order for token in tokens for order in self._ledger.by_digits.get(token, ())]
        return self.waiting([*found, *self.by_symbol])

    def is_from(self, order: Row) -> bool:
        """Say whether the payer's name is that of the order's customer."""
        return _same_name(self.payment.get("payer_name"), order["customer"].get("name"))

    def names(self, order: Row) -> bool:
        """Say whether the digits of one of an order's numbers stand in the payment."""
        return any(digits.replace("0", "") in self._digits.replace("0", "") for digits in _digits_in(order))

    @property
    def beside(self) -> list[Row]:
        """What waits of the payer's own, exact, and a wrong digit away from what is named."""
        tokens = [*re.findall("[0-9]+", self.text), self.payment.get("variable_symbol", "").lstrip("0")]
        near = {each for token in tokens for each in (*one_off(token), token) if token}
        own = [order for order in self.by_name if self.open[order["number"]] == self.amount]
        return [order for order in own if near & {order.get("variable_symbol", ""), order["number"][-6:]}]

    @property
    def fitting(self) -> list[Row]:
        """What waits and is named, and has exactly this amount open."""
        return [order for order in self.waiting(self.near) if self.open[order["number"]] == self.amount]

    @property
    def near(self) -> list[Row]:
        """All orders of these channels whose digits stand in it, alone or inside others."""
        return self.ours({order["number"]: order for order in self._ledger.near(self._digits)}.values())

    @property
    def limit(self) -> int:
        """How far the amount may be off, for what is settled or for a choice of what could be."""
        return max(map(self._ledger.limit, self.settled or self.by_account or self.near))


_Condition = Callable[[_Looked], bool]


def _unnamed(look: _Looked) -> bool:
    return not look.by_token


def _unknown(look: _Looked) -> bool:
    return _unnamed(look) and not look.by_account


def _by_himself(look: _Looked) -> bool:
    return all(look.is_from(order) for order in look.settled)


def _by_account(look: _Looked) -> bool:
    """One choice of what waits of the account's owner comes to the amount, and it is what is settled."""
    owners = {order["customer"]["id"] for order in look.by_account}
    numbers = {order["number"] for order in look.by_account}
    ours = all(order["number"] in numbers for order in look.settled)
    return _unnamed(look) and ours and len(owners) == 1 and choices_of(look.opens(look.by_account), look.amount) == 1


def _of_another(look: _Looked) -> bool:
    """The symbol is somebody else's, and the payer has an open order of this amount himself."""
    own = [order for order in look.by_name if look.open[order["number"]] == look.amount]
    return bool(look.waiting(look.by_symbol) and own) and not any(look.is_from(order) for order in look.by_symbol)


def _same_amount(look: _Looked) -> bool:
    return look.amount in look.opens(look.by_symbol)


def _own_and_named(look: _Looked) -> list[int]:
    return look.opens(order for order in look.waiting(look.near) if look.is_from(order))


_CONDITIONS: dict[str, _Condition] = {
    "clean_symbol": lambda look: look.waiting(look.by_symbol) == look.settled,
    "symbol_in_message": lambda look: "variable_symbol" not in look.payment,
    "rf": lambda look: "rf" in look.text,
    "end_to_end": lambda look: "end_to_end_id" in look.payment,
    "cut_text": lambda look: {len(line) for line in look.payment["message"].split("\n")[:-1]} <= {35, 140},
    "bare_number": _by_himself,
    "inside_number_beside": _by_himself,
    "constant_symbol_and_text": lambda look: not look.by_symbol and _by_himself(look),
    "family": lambda look: not look.by_name,
    "group_named": lambda look: {order["customer"].get("group") for order in look.settled} <= look.groups,
    "group_account": lambda look: (
        _unnamed(look) and look.opens(look.by_group).count(look.amount) == 1 and look.settled[0] in look.by_group
    ),
    "short": lambda look: look.opens(look.settled)[0] - look.amount > look.limit and _by_himself(look),
    "over": lambda look: look.amount - look.opens(look.settled)[0] > look.limit and _by_himself(look),
    "within_tolerance": lambda look: 0 < abs(look.amount - look.opens(look.settled)[0]) <= look.limit,
    "parts": _by_himself,
    "several_named": lambda look: len(look.settled) > 1 and _by_himself(look),
    "duplicate": lambda look: bool(look.settled) or any(not look.open[order["number"]] for order in look.near),
    "account_known": _by_account,
    "account_set": lambda look: len(look.settled) > 1 and _by_account(look),
    "two_named_one_fits": lambda look: [order for order in look.fitting if look.is_from(order)] == look.settled,
    "reused_symbol": lambda look: (
        look.opens(look.waiting(look.by_symbol)).count(look.amount) == 1
        and look.settled[0] in look.by_symbol
        and _by_himself(look)
    ),
    "old_symbol": lambda look: (
        all(look.is_from(order) and not look.open[order["number"]] for order in look.by_symbol)
        and not any(minor(order["total"]) == look.amount for order in look.by_symbol)
        and {order["customer"]["id"] for order in (*look.by_symbol, *look.settled)}
        == {look.settled[0]["customer"]["id"]}
    ),
    "typo_nothing_named": lambda look: not look.by_symbol and _unnamed(look) and look.beside == look.settled,
    # Left to a person
    "group_account_not_unique": lambda look: _unnamed(look) and look.opens(look.by_group).count(look.amount) > 1,
    "several_named_off": lambda look: (
        len(_own_and_named(look)) > 1 and not choices_of(_own_and_named(look), look.amount, look.limit)
    ),
    "account_two_fit": lambda look: _unnamed(look) and look.opens(look.by_account).count(look.amount) > 1,
    "account_of_two": lambda look: len({order["customer"]["id"] for order in look.by_account}) > 1,
    "account_off": lambda look: (
        bool(look.by_account) and not choices_of(look.opens(look.by_account), look.amount, look.limit)
    ),
    "account_set_not_unique": lambda look: choices_of(look.opens(look.by_account), look.amount) > 1,
    "two_named_two_customers": lambda look: (
        len(look.waiting(look.near)) > 1 and not any(look.is_from(order) for order in look.fitting)
    ),
    "reused_symbol_open": lambda look: (
        look.opens(look.waiting(look.by_symbol)).count(look.amount) > 1
        and not any(look.is_from(order) for order in look.by_symbol)
    ),
    "old_symbol_same_amount": lambda look: any(
        minor(order["total"]) == look.amount and not look.open[order["number"]] for order in look.by_symbol
    ),
    "typo_nothing": lambda look: not look.by_symbol and _unnamed(look) and not look.beside,
    "typo_other_same_amount": lambda look: _of_another(look) and _same_amount(look) and bool(look.beside),
    "typo_other_amount": lambda look: _of_another(look) and not _same_amount(look) and bool(look.beside),
    "other_order": _of_another,
    "constant_symbol_alone": lambda look: not look.by_symbol and _unknown(look),
    "amount_only": lambda look: _unknown(look) and not look.by_name,
    "name_and_amount": lambda look: _unknown(look) and bool(look.by_name),
    "inside_number": lambda look: _unknown(look) and bool(look.fitting),
    "nothing_ours": _unknown,
    "payout": _unknown,
    "late": lambda look: any(order.get("status") in _CLOSED for order in look.near),
    "wrong_currency": lambda look: any(order["currency"] != look.payment["currency"] for order in look.near),
    "refund": lambda look: look.amount < 0 and bool(look.near),
    "outgoing": lambda look: look.amount < 0 and _unnamed(look),
}
"""What must hold of a payment of a kind, beside what must hold of all."""

_NOT_NAMED = frozenset({"group_account", "account_known", "account_set", "old_symbol", "typo_nothing_named"})
_ANOTHER_AMOUNT = frozenset({"short", "over", "within_tolerance", "parts"})


def _named_rightly(look: _Looked) -> str | None:
    """Say what is wrong with a decidable answer's references and amount, if anything."""
    kind, settled = look.answer["kind"], look.settled
    if kind not in _NOT_NAMED and not all(look.names(order) for order in settled):
        return "an order is settled that isn't named"
    if kind not in _ANOTHER_AMOUNT and sum(look.opens(settled)) != look.amount:
        return "the amount is another than is open"
    own = [order for order in look.by_name if look.open[order["number"]] == look.amount]
    known = any(order in look.by_account for order in settled)
    if own and not known and not any(look.is_from(order) for order in settled):
        return "the payer has an order of this amount himself"
    return None


def check(orders: Iterable[Row], payments: Iterable[Row], truth: Iterable[Row], rules: dict[str, Row]) -> Iterator[str]:
    """Say which answers don't follow from the data, and why; nothing of how the corpus was made is used.

    payments and truth are in the order of booking.
    """
    ledger = _Ledger(orders, rules)
    for payment, answer in zip(payments, truth, strict=True):
        look = _Looked(ledger, payment, answer)
        why = "it answers another payment" if answer["payment"] != payment["id"] else ledger.wrong(look)
        why = why or (_named_rightly(look) if look.settled else None)
        condition = _CONDITIONS.get(answer["kind"])
        if not why and condition and not condition(look):
            why = "the case isn't what it is said to be"
        if why:
            yield f"{payment['id']} ({answer['kind']}): {why}"
        ledger.settle(look)


def main() -> None:
    """Write a corpus to a folder."""
    parser = argparse.ArgumentParser(description="Payments as people and banks write them, with the right answers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--payments", type=int, default=100_000)
    parser.add_argument("--into", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--check", action="store_true", help="look at the corpus afresh; exit 1 if an answer is wrong")
    told = parser.parse_args()
    corpus = make(told.seed, told.payments)
    corpus.write(told.into)
    if told.check:
        wrong = list(check(corpus.orders, corpus.payments, corpus.truth, corpus.rules))
        sys.stderr.write("".join(f"{line}\n" for line in wrong))
        raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
