"""When the ladder gives quality up and takes it back: what breaks on either side of each number."""

# A frame this late, as a share of the session's patience, counts as missed; a quarter is half a
# frame at 25 fps. Smaller: jitter that nobody sees lowers the quality; larger: the picture judders.
GRACE = 0.25
# Each miss counts one, each frame in time takes LEAK back; at FULL the ladder goes down. Smaller
# FULL: a hiccup of a tenth of a second is answered; larger: the judder lasts. With this LEAK one
# late frame in nine is borne for ever; less would never forget, more would bear a visible flicker.
FULL, LEAK = 4.0, 0.125
# So many lead to the last rung, which shows nothing: a frame that is missed above it holds a mouth,
# which is better. Smaller: a burst elsewhere on the machine takes all away for seconds; larger:
# a device that chokes goes on choking.
LAST = 12.0
# Share of the devices' time that sessions may plan to use. More: frames of different sessions meet
# and wait for each other; less: devices idle while quality is low.
ROOM = 0.85
# Going down, a rung will do that needs so much of what climbing to it may need: all of the time.
# So much may be climbed to where it was borne before, too.
STAY = 1 / ROOM
HELD_S = 2.0  # it was, if for so long
BORNE = 1.05  # the same load is never measured the same twice
HELD_EWMA = 0.05
# A session with no more than an equal part of the devices bears so many times as many misses, and
# they are charged to the one with most: frames that come at a bad moment are missed by whoever has
# least. At 1 both go down.
MODEST = 2.0
# At least so long on a rung before the next higher one. Shorter: too few frames were measured;
# longer: eight steps are not back within 3 s.
CLIMB_S = 0.3
# So many measured frames on a rung before it is left upwards.
SAMPLES = 3
# A fall so soon after a climb says that the climb was a mistake.
FAILED_S = 15.0
# It is repeated after twice the time that was waited before, within these. Shorter: it flaps;
# longer: quality stays low where the forecast was wrong.
AGAIN_FIRST_S, AGAIN_LAST_S = 5.0, 60.0
# ... or at once when the forecast has fallen below this share of what it was: the load has ended.
# More: a busy machine's good moments are taken for that; less: the end of a double load is missed.
EASIER = 0.5
# The forecast may be wrong: encoding a frame is counted as one step, whatever it costs. After so
# long without a miss a rung is tried that should need up to UNSURE times too much.
TRY_S, UNSURE = 15.0, 2.0
# On the lowest rung a frame is painted so often. Rarer: recovery takes longer than 3 s; more often:
# a device that chokes is kept choking.
PROBE_S = 0.35
# What was measured longer ago says nothing about now; the rate of pictures may be any.
RECENT_S, KEPT = 1.2, 64
FALLS_BY = 2  # going down, only the newest ones tell
# Going up, the worst of so many. Fewer: a busy machine's good moments are climbed in; more: the way
# back takes longer than 3 s.
CLIMBS_BY = 6
PAUSE_S = 0.5  # a gap this long between frames says nothing about their rate
RATE_EWMA = 0.1
# After so many frames in a row that took no device's time, a second, what was learned under load
# is out of date. Fewer: a generated frame now and then keeps the rungs moving; more: people are
# told of a reduced quality that nobody has.
SPARED = 25
CHANGES_KEPT = 32  # for those who ask rarely
