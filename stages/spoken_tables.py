"""Tables of written English: abbreviations, months, units of measure, and letters without a decomposition."""

FOLD = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032\u00b4`", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u2014\u2015", " "),
        **dict.fromkeys("\u2122\u00ae\u00a9\u2120", " "),
        "\u2044": "/",
        "\u00d7": " x ",
        "\u2026": " ",
        **{"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
        **{"đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "\u0131": "i"},
    }
)
"""Applied before compatibility decomposition, which removes accents."""

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
MONTH_OF = {name[:3]: name for name in MONTHS if name != "may"} | {"sept": "september"}

ALWAYS = {
    "mr": ("mister",),
    "mrs": ("missus",),
    "dr": ("doctor",),
    "prof": ("professor",),
    "vs": ("versus",),
    "etc": ("et", "cetera"),
    "w/": ("with",),
    "w/o": ("without",),
}
"""Read in full with or without a full stop."""

WITH_STOP = {
    **{"sr": ("senior",), "jr": ("junior",), "gen": ("general",), "col": ("colonel",), "capt": ("captain",)},
    **{"lt": ("lieutenant",), "sgt": ("sergeant",), "rev": ("reverend",), "hon": ("honorable",)},
    **{"gov": ("governor",), "sen": ("senator",), "rep": ("representative",), "dept": ("department",)},
    **{"approx": ("approximately",), "inc": ("incorporated",), "ltd": ("limited",), "co": ("company",)},
    **{"corp": ("corporation",), "ave": ("avenue",), "blvd": ("boulevard",), "rd": ("road",), "mt": ("mount",)},
    **{"e.g": ("for", "example"), "i.e": ("that", "is"), "ph.d": ("p", "h", "d"), "ms": ("ms",)},
    **{"mon": ("monday",), "tue": ("tuesday",), "tues": ("tuesday",), "wed": ("wednesday",)},
    **{"thurs": ("thursday",), "fri": ("friday",)},
}
"""Read in full only with a full stop: without it they are words or initials."""

BEFORE_NUMBER = {
    **{"no": ("number",), "nos": ("numbers",), "fig": ("figure",), "figs": ("figures",), "vol": ("volume",)},
    **{"p": ("page",), "pp": ("pages",), "ch": ("chapter",), "sec": ("section",)},
}
"""With a full stop and before a number."""

UNITS = {
    **{"km/h": ("kilometer per hour", "kilometers per hour"), "mph": ("mile per hour", "miles per hour")},
    **{"kmh": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour")},
    **{"m/s": ("meter per second", "meters per second"), "km": ("kilometer", "kilometers"), "m": ("meter", "meters")},
    **{"cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"), "mi": ("mile", "miles")},
    **{
        "ft": ("foot", "feet"),
        "km2": ("square kilometer", "square kilometers"),
        "m2": ("square meter", "square meters"),
    },
    **{"kg": ("kilogram", "kilograms"), "g": ("gram", "grams"), "mg": ("milligram", "milligrams")},
    **{"lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces")},
    **{"l": ("liter", "liters"), "ml": ("milliliter", "milliliters")},
    **{"hz": ("hertz", "hertz"), "khz": ("kilohertz", "kilohertz"), "mhz": ("megahertz", "megahertz")},
    **{"ghz": ("gigahertz", "gigahertz"), "kb": ("kilobyte", "kilobytes"), "mb": ("megabyte", "megabytes")},
    **{"gb": ("gigabyte", "gigabytes"), "tb": ("terabyte", "terabytes")},
    **{"hr": ("hour", "hours"), "hrs": ("hour", "hours"), "min": ("minute", "minutes"), "sec": ("second", "seconds")},
    **{"°": ("degree", "degrees"), "°c": ("degree celsius", "degrees celsius")},
    **{"°f": ("degree fahrenheit", "degrees fahrenheit"), "%": ("percent", "percent")},
}
"""Only after a number: (after 1, otherwise)."""

MAGNITUDES = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
COUNTED = MAGNITUDES | {
    *(
        "dollars",
        "pounds",
        "euros",
        "cents",
        "percent",
        "people",
        "men",
        "women",
        "children",
        "words",
        "times",
        "copies",
    ),
    *("miles", "feet", "meters", "metres", "kilometers", "kilometres", "yards", "inches", "tons", "acres", "degrees"),
    *("hours", "minutes", "seconds", "days", "years", "square"),
}
"""A number of four digits before one of these is a count, not a year."""

SYMBOLS = {"&": "and", "+": "plus", "@": "at", "=": "equals"}

INITIALISMS = frozenset({"us", "un", "eu", "uk", "id", "pm"})
"""In capitals they are read letter by letter although the dictionary has a word of the same letters."""

NUMBERED = frozenset({"chapter", "part", "book", "volume", "act", "scene", "section", "war", "type", "phase", "level"})
REGNAL = frozenset(
    {
        *("henry", "louis", "george", "edward", "charles", "james", "william", "elizabeth", "richard", "philip"),
        *(
            "john",
            "paul",
            "pius",
            "benedict",
            "gregory",
            "leo",
            "napoleon",
            "alexander",
            "nicholas",
            "catherine",
            "mary",
        ),
    }
)
"""A Roman numeral after one of these is read "the eighth"."""
