"""What the client suites ask, whatever the dialect."""

# What clients show to the gateway; no cloud may see it.
CLIENT_KEY = "sk-of-the-client"

# A number that card networks publish for tests; it passes the Luhn check like a real one.
CARD = "4111 1111 1111 1111"
# What shows it. Fewer digits may be a port's or a moment's.
CARD_PARTS = ("4111 1111", "1111 1111", "41111111")
ORDINARY = [{"role": "user", "content": "Name three fruits."}]
REGULATED = [{"role": "user", "content": f"Charge my card {CARD}, expiry 04/29, please."}]
# Makes a model that can call tools call get_weather, which answers this.
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
RESULT = "Sunny, 21 degrees"
# Longer than the embedded model reads.
TOO_LONG = "word " * 20_000
# What the tool get_weather takes.
WEATHER_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER_SAID = "Weather of a city"
