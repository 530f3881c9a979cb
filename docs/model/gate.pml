/* The gate: writers ring only a daemon that sleeps, and no committed event waits for a sleeper whom nobody rings.
 *
 * The promise: whenever the daemon sleeps, nothing has woken it and its session is up, every committed event is taken,
 * or that event's own bell is still on its way. There is no poll in this model: the bell has to do alone.
 *
 *   spin -a gate.pml && gcc -O1 -DSAFETY -DNOREDUCE -o pan pan.c && ./pan -m1000000
 *
 * Mutants, each by -D: NO_SECOND_DRAIN, CLEAR_AFTER_DRAIN, AWAKE_FLAG, UNLOCK_BEFORE_VISIBLE, OPEN_ORPHANED,
 * NO_WAKE_ON_CONNECT. README.md says what each stands for, and which line of the code each step is.
 */

#ifndef WRITERS
#define WRITERS 2
#endif

mtype:row = { nothing, written, committed, taken };

mtype:row row[WRITERS] = nothing;  /* what each writer's transaction has captured */
bool rings[WRITERS];               /* its NOTIFY, from the refused lock until it is delivered */
byte shared;                       /* transactions that hold the gate shared */
bool closed;                       /* the daemon's session holds it exclusively: the server's view */

bool thinks_closed;                /* Listener.gate_closed: the daemon's view */
bool opening;                      /* open_gate() is under way beside the loop */
bool wake = true;
bool asleep;
bool listening = true;
bool leading = true;
bool down;                         /* from the loss of the session to the wake that ends the reconnect */

byte away = 1;                     /* claims that may fail, the database being away */
byte cuts = 1;                     /* times that the session may be lost */

#define UNHEARD(i) (row[i] == committed && !rings[i])

/* A transaction of the application: one change or two, committed or rolled back. */
proctype Writer(byte i) {
    bool holds;
    byte changes;

    row[i] = written;  /* INSERT INTO pgherald.outbox: nobody sees it yet */
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
    :: atomic { row[i] = nothing; rings[i] = false }  /* its NOTIFY is rolled back with it */
    fi;
    /* PostgreSQL lets go of locks, and signals listeners, only once the transaction's rows can be seen. */
    if
    :: atomic { holds -> holds = false; shared-- }
    :: else
    fi;
    atomic {
        if
        :: rings[i] && listening -> wake = true
        :: else  /* what rings while nobody listens is lost */
        fi;
        rings[i] = false
    }
}

/* Claim until nothing is left: what the last snapshot could see is taken. */
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

/* The claim raises DatabaseUnavailable; the loop begins anew. */
inline fail() {
    atomic {
        away > 0 -> away--;
        awaits = false;
        goto again
    }
}

/* Worker._until_rung */
active proctype Daemon() {
    bool found, granted;
    bool awaits;  /* for OPEN_ORPHANED alone */
    byte i;

    do
    ::
#ifndef CLEAR_AFTER_DRAIN
        wake = false;  /* before the drain, so that a ring during it is not lost */
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
        !opening;  /* or the gate would be taken for closed, and then be opened on the sleeper */
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
            :: !granted -> goto again  /* a transaction that did not ring is in flight: drain again in a moment */
            :: granted -> goto again   /* the answer is late, behind a flood: the next round finds the gate closed */
            :: granted
            fi;
#ifndef NO_SECOND_DRAIN
            if  /* with a new snapshot: what became visible between the last drain and the lock has rung nobody */
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

/* Listener.open_gate(), beside the drain */
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

/* The session is lost, and LISTEN and every lock with it; then it is back, in this daemon or in one that takes the lead.
 * In between the daemon polls: nothing is promised. */
active proctype Session() {
end_up:
    do
    ::  atomic {
            cuts > 0 -> cuts--;
            down = true; listening = false; leading = false; closed = false; thinks_closed = false; wake = true
        };
        listening = true;  /* LISTEN before all else */
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

/* And when nothing moves any more, everything is taken. */
active proctype Rest() {
    byte i;

    timeout;
    do
    :: i < WRITERS -> assert(row[i] == nothing || row[i] == taken); i++
    :: else -> break
    od
}

/* That the model gets where it is meant to get: a state that must be met. */
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
