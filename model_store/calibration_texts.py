"""English sentences on which int8 builds measure the range of activations. Written for this project."""

from __future__ import annotations

_SENTENCES = """
I love you.
I hate you.
The food is very tasty.
I ran to the store.
The train was twenty minutes late again, and nobody told us why.
What a lovely evening!
Our waiter forgot the drinks, mixed up the plates and then smiled as if nothing had happened.
It works.
It does not work at all.
I have used this kettle every morning for three years and it still looks new.
The screen cracked on the second day.
Do you know when the library opens on Sundays?
She thanked the driver and stepped off the bus.
The second half of the book is much better than the first, though the ending felt rushed.
Never again.
Honestly, I expected less for the price; this is a solid pair of shoes.
My parcel arrived wet, two weeks late, and with half of the screws missing.
The museum is closed on Mondays.
He plays the piano badly but with great joy.
This is the best soup I have eaten in years, and I eat a lot of soup.
The instructions were written for somebody who already knows the machine.
Thank you for the quick answer!
Why would anybody pay forty euros for this?
The children laughed from the first minute to the last.
It rained all week, the roof leaked, the owner shrugged, and yet we had a wonderful holiday.
The actors do what they can with a script that gives them nothing.
A quiet, patient film about two brothers and a boat.
I could not put it down.
I could not wait for it to end.
Battery life is fine, the camera is poor, the speaker is surprisingly loud.
Please send the invoice to the address below.
The hotel room smelled of smoke and the window would not open.
Breakfast was simple, fresh and plentiful.
Not bad, not good, just there.
The update broke the one feature I used every day.
Support answered within an hour and solved it in five minutes.
You get what you pay for.
The dog slept through the whole concert.
I was told that somebody would call me back; that was in March.
Beautiful photographs, careful sentences, and not one idea.
Everything about this place is loud, from the music to the wallpaper.
Our neighbours brought cake and stayed until midnight.
The plot makes no sense, but the songs are so good that I did not care.
My grandmother liked it; my nephew fell asleep.
Delivery was fast.
The sleeves are too short and the colour is not the one in the picture.
I was wrong about this band: the new record is warm, funny and full of surprises.
The bakery on the corner sells out before nine o'clock.
Half of the seats were broken, the sound was muddy, and the main actor forgot his lines twice.
He said that he was sorry, and I believe him.
A masterpiece.
A mess.
The meeting has been moved to Thursday at half past ten.
It took me four attempts to install the driver, and then the printer printed everything in pink.
I recommend the fish.
Do not buy the cheap one.
The garden is small but the light in the evening is unforgettable.
Nobody in this story behaves like a human being.
We walked along the river, ate ice cream and talked about nothing in particular.
The new manager has changed everything for the better.
The phone gets so hot that I cannot hold it.
If you liked the first season, you will love this one; if you did not, it will not change your mind.
The lecture was dull.
The lecture was anything but dull.
I asked for a refund and got a voucher instead.
Great value, friendly people, spotless rooms.
The stairs are steep, so bring good shoes.
My only complaint is that it was over too soon.
There is hardly a scene in it that does not feel borrowed from somewhere else.
This blender is louder than my vacuum cleaner and about as useful in the kitchen.
The tickets cost less than a coffee and the view from the tower is worth ten times as much.
The doctor listened, explained everything twice and never looked at the clock.
I waited at the counter for fifteen minutes while three people behind it talked about their weekend.
What began as a clever little thriller ends as a tired parade of explosions.
The fabric feels soft and heavy, and after a dozen washes it has neither faded nor shrunk.
Turn left at the second traffic light and park behind the church.
The actress carries the film on her shoulders, and she carries it with grace.
It is a pity that such a fine cast was given so little to do.
Our flight was cancelled at midnight and the airline put us in a hotel without heating.
I bought two more for my sisters.
The manual is only available in a language that I cannot read.
The jokes are old, the songs are older, and the audience loved every minute.
Could you tell me whether the blue one is still available in a larger size?
A slow start, a strong middle, and an ending that left the whole room silent.
The app crashes whenever I open a second window, and the developers have known it since spring.
We have been customers for ten years and this is the first time that anything went wrong.
The paint peeled off after one winter.
Sweet, sad, strange and very funny.
The teacher made a hard subject easy, and my daughter now asks for more homework.
Overpriced, overcooked and served with a sigh.
I do not understand the bad reviews; mine arrived on time and works perfectly.
The soundtrack is wonderful, the pictures are wonderful, and the story is a bore.
It is neither fast nor pretty, but it starts every morning, it costs nothing to run, the parts are cheap,
    every village mechanic knows how to repair it, and in fifteen years it has never once left us standing
    by the road.
On the first evening the heating failed, on the second the neighbours held a party until four, on the
    third we found ants in the sugar, and when we told the landlord about it he asked us, with a perfectly
    straight face, to write a nice review because he was hoping to raise the rent next year; we moved to
    the little guest house on the other side of the square, where the beds were hard and the coffee was
    weak, but where somebody had put fresh flowers on the table.
The director has said that she wanted to make a film in which nothing happens, and she has succeeded: for
    two hours people come in, sit down, look out of the window and leave again, and I have rarely been so
    moved by anything.
""".strip()


def _paragraphs(block: str) -> tuple[str, ...]:
    """One text per line; an indented line continues the previous one."""
    texts: list[str] = []
    for line in block.splitlines():
        if line.startswith(" "):
            texts[-1] = f"{texts[-1]} {line.strip()}"
        else:
            texts.append(line)
    return tuple(texts)


CALIBRATION_TEXTS = _paragraphs(_SENTENCES)
