/* The gate: writers send NOTIFY only to a daemon that sleeps, and no committed event waits unnoticed.
 *
 * The promise holds whenever the daemon sleeps, its session is up, and nothing has woken it. Then every committed event
 * is taken, or that event's own notification is still on its way. The model has no poll: notifications must suffice.
 *
 *   spin -a gate.pml && gcc -O1 -DSAFETY -DNOREDUCE -o pan pan.c && ./pan -m1000000
 *
 * Mutants, each by -D: NO_SECOND_DRAIN, CLEAR_AFTER_DRAIN, AWAKE_FLAG, UNLOCK_BEFORE_VISIBLE, OPEN_ORPHANED,
 * NO_WAKE_ON_CONNECT, TAKEN_OVER_UNRUNG. README.md explains each, and names the line of the code for each step.
 */

#ifndef MOVES
#define MOVES 1               /* take-overs of another session */
#endif
#ifndef WRITERS
#define WRITERS 2
#endif

mtype:row = { nothing, written, committed, moving, taken };

mtype:row row[WRITERS] = nothing;  /* what the transaction of each writer has captured: in the inbox, or taken
                                    * over and available. `moving`: another session's take-over has locked it */
byte moved;                        /* which one another session has taken over, without a claim */
bool moved_rings;                  /* that session's NOTIFY is on its way */
bool rings[WRITERS];               /* its NOTIFY is on its way: from the refused lock until delivery */
byte shared;                       /* transactions that hold the gate shared */
bool closed;                       /* the daemon's session holds it exclusively, as the server sees it */

bool thinks_closed;                /* Gate.closed: the same, as the daemon sees it */
bool opening;                      /* open_gate() is running beside the loop */
bool wake = true;
bool asleep;
bool listening = true;
bool leading = true;
bool down;                         /* from the loss of the session to the wake after the reconnect */

byte away = 1;                     /* claims that may fail because the database is unavailable */
byte moves = MOVES;
byte cuts = 1;                     /* how often the session may be lost */

#define UNHEARD(i) (row[i] == committed && !rings[i] && !(moved_rings && moved == i))

/* A transaction of the application with one or two changes, committed or rolled back. */
proctype Writer(byte i) {
    bool holds;
    byte changes;

    row[i] = written;  /* INSERT INTO pgherald.inbox: no other session sees it yet */
    do
    :: changes < 2 ->
        changes++;
        if  /* pg_try_advisory_xact_lock_shared, or else pg_notify */
        :: atomic { !closed -> if :: !holds -> holds = true; shared++ :: else fi }
        :: atomic { closed -> rings[i] = true }
        fi
    :: changes > 0 -> break
    od;
#ifdef UNLOCK_BEFORE_VISIBLE
    if
    :: atomic { holds -> holds = false; shared-- }
    :: else
    fi;
#endif
    if
    :: row[i] = committed
    :: atomic { row[i] = nothing; rings[i] = false }  /* the rollback also discards its NOTIFY */
    fi;
    /* PostgreSQL releases locks and signals listeners only after the transaction's rows are visible. */
    if
    :: atomic { holds -> holds = false; shared-- }
    :: else
    fi;
    atomic {
        if
        :: rings[i] && listening -> wake = true
        :: else  /* a notification is lost while no session listens */
        fi;
        rings[i] = false
    }
}

/* Another session takes a row over and leaves it available: `pgherald events`, or a daemon that has no room. */
active proctype Other() {
    bool holds;

end_idle:
    do
    :: atomic {
        moves > 0 && (row[0] == committed || row[1] == committed) -> moves--;
        if
        :: row[0] == committed -> moved = 0
        :: row[1] == committed -> moved = 1
        fi;
        row[moved] = moving
       };
#ifndef TAKEN_OVER_UNRUNG
       if  /* as in a capture */
       :: atomic { !closed -> holds = true; shared++ }
       :: atomic { closed -> moved_rings = true }
       fi;
#endif
       row[moved] = committed;
       if
       :: atomic { holds -> holds = false; shared-- }
       :: else
       fi;
       atomic {
        if
        :: moved_rings && listening -> wake = true
        :: else
        fi;
        moved_rings = false; moved = 0
       }
    od
}

/* Claim until nothing is left: everything that the last snapshot saw is taken, except locked rows. */
inline drain() {
    d_step {
        found = false;
        i = 0;
        do
        :: i < WRITERS ->
            if
            :: row[i] == committed -> row[i] = taken; found = true
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

/* The claim raises DatabaseUnavailable, and the loop starts again. */
inline fail() {
    atomic {
        away > 0 -> away--;
        awaits = false;
        goto again
    }
}

/* Worker._run_until_error */
active proctype Daemon() {
    bool found, granted;
    bool awaits;  /* only for OPEN_ORPHANED */
    byte i;

    do
    ::
#ifndef CLEAR_AFTER_DRAIN
        wake = false;  /* before the drain, so that a notification during it is not lost */
#endif
        if
        :: drain()
        :: fail()
        fi;
#ifdef OPEN_ORPHANED
        if  /* an exception makes the loop forget that the gate is being opened */
        :: awaits -> !opening; awaits = false
        :: !awaits
        fi;
#else
        !opening;  /* otherwise the gate would count as closed, and be opened while the daemon sleeps */
#endif
        if
        :: leading ->
            d_step {  /* close_gate(): pg_try_advisory_lock, unless it is held */
                if
                :: thinks_closed -> granted = true
#ifdef AWAKE_FLAG
                :: !thinks_closed && leading ->
#else
                :: !thinks_closed && leading && shared == 0 ->
#endif
                    closed = true; thinks_closed = true; granted = true
                :: else -> granted = false
                fi
            };
            if
            :: !granted -> goto again  /* a transaction that skipped NOTIFY is still open: drain again shortly */
            :: granted -> goto again   /* the answer is late: the next round finds the gate closed */
            :: granted
            fi;
#ifndef NO_SECOND_DRAIN
            if  /* events that became visible between the last drain and the lock sent no NOTIFY */
            :: drain()
            :: fail()
            fi;
            if
            :: found -> atomic { closed = false; thinks_closed = false }; goto again
            :: !found
            fi
#endif
        :: !leading
        fi;
#ifdef CLEAR_AFTER_DRAIN
        wake = false;
#endif
        asleep = true;
end_asleep:
        atomic { wake -> asleep = false; opening = true; awaits = true };
again:
        skip
    od
}

/* Listener.open_gate(), which runs beside the drain */
active proctype Opener() {
end_idle:
    do
    :: opening ->
        if
        :: thinks_closed -> closed = false; thinks_closed = false
        :: else
        fi;
        opening = false
    od
}

/* The session is lost, and with it LISTEN and every lock. Then it is back, in this daemon or in the next leader.
 * In between the daemon polls, and the model promises nothing. */
active proctype Session() {
end_up:
    do
    ::  atomic {
            cuts > 0 -> cuts--;
            down = true; listening = false; leading = false; closed = false; thinks_closed = false; wake = true
        };
        listening = true;  /* LISTEN comes first */
        leading = true;
#ifdef NO_WAKE_ON_CONNECT
        down = false
#else
        atomic { wake = true; down = false }
#endif
    od
}

active proctype Promise() {
end_kept:
    asleep && !wake && !down && (UNHEARD(0) || UNHEARD(1)
#if WRITERS > 2
        || UNHEARD(2)
#endif
    );
    assert(false)
}

/* At the end, when no process can take a step, everything is taken. */
active proctype Rest() {
    byte i;

    timeout;
    do
    :: i < WRITERS -> assert(row[i] == nothing || row[i] == taken); i++
    :: else -> break
    od
}

/* A state that a run must reach. It shows that the model covers what it should. */
#ifdef WITNESS
active proctype Witness() {
end_unseen:
    WITNESS;
    assert(false)
}
#endif

init {
    atomic {
        run Writer(0);
        run Writer(1);
#if WRITERS > 2
        run Writer(2)
#endif
    }
}
