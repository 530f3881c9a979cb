/* Delivery: one event from its capture to its settlement, with two daemons that may die at any point.
 *
 * The promise: when no process can take a step, the event is settled, or is in doubt and waits for a person. The mail
 * server has accepted it once. It has accepted it twice only if the outbox says that the event was in doubt, and never
 * under the policy `hold`. An event for several people was spread before it is sent, once: it is then that of the first
 * person, and the others' events are there. The captured change became one event, although the take-over from the inbox
 * and the claim are not flushed.
 *
 *   spin -a [-DHOLD] handover.pml && gcc -O1 -DSAFETY -DNOREDUCE -o pan pan.c && ./pan -m1000000
 *
 * Mutants, each by -D: SETTLE_UNFENCED, MARK_UNFENCED, MARK_AFTER_DOT, NO_LEASE_CHECK, LEASE_OF_NEXT_LIFE, RESEND_EARLY,
 * UNTOLD, SECOND_DOUBT_RESENT, NO_REPLY_IS_NO, ANSWER_BY_EVENT, CLAIM_UNSWEPT, SPREAD_UNFENCED, SPREAD_IN_TWO,
 * TAKE_OVER_UNLOCKED, INSERTED_FIRST, DELETED_FIRST, MARK_UNFLUSHED; and NEVER_TWICE, a promise that no program can keep.
 * README.md explains each, and names the line of the code for each step.
 */

#ifndef FAULTS
#define FAULTS 1              /* 0 to 2; 0 only with a crash */
#endif
#ifndef CRASHES
#define CRASHES 0             /* of the database server, 0 or 1 */
#endif
#ifndef CARRIERS
#define CARRIERS 3            /* senders, 2 or 3: with 3, the first daemon may claim one event twice */
#endif
/* A fault begins at most one life, a crash two; pan reports an index that is out of range. */
#define LIVES (3 + FAULTS + 2 * CRASHES)
#define D (c & 1)             /* the daemon of a sender */

bool in_inbox = true;         /* the captured change is in pgherald.inbox, committed and flushed by the application */

/* The event's row in pgherald.outbox. */
mtype:state = { none, available, claimed, transmitting, in_doubt, sent, failed };  /* `failed` also stands for `skipped` */
mtype:state state = none;     /* none: there is no row yet */
byte claim;                   /* 1 + the sender that made it, which has one at a time; 0 is NULL */
byte claimed_by;              /* a life */
byte doubts;                  /* 2: two or more */
bool held;                    /* scheduled_at is NULL: it waits for a person */
bool is_spread;               /* the person is not NULL */
byte until;                   /* scheduled_at is the end of the lease of this life; for life 0: now */

/* Not flushed: a crash of the server may undo the claim, or the take-over and what followed it. */
bool soft_take_over;
bool soft_claim;              /* of a row that was in the outbox before; otherwise the claim is part of the take-over */
byte claim_before;            /* the value that the claim has replaced */

/* pgherald.worker. A life is a registration: a daemon that restarts or was declared dead registers again. */
bool registered[LIVES];       /* the row exists */
bool over[LIVES];             /* the lease has ended, by the daemon's clock, which is kept ahead */
byte lives;

/* Two daemons. */
byte life[2];
bool cut[2];                  /* it cannot reach the database, or is suspended */
bool session[2];              /* its LISTEN session, which holds the presence lock */

/* The senders: what each has asked of its daemon's batch writer, and the answer. */
mtype:wish = { nothing, mark, settle };
mtype:wish wish[CARRIERS] = nothing;
mtype:state outcome[CARRIERS] = available;
bool yes[CARRIERS];
bool in_hand[CARRIERS];       /* it knows of its claim */
byte claimed_in[CARRIERS];    /* the life in which the claim was made */
bool killed[CARRIERS];

/* Only for the promise. */
bool marked[CARRIERS];        /* the mark of this claim was written */
byte rows;                    /* how many times the change was inserted into the outbox, and not undone */
byte others;                  /* how many times the events of the other people were inserted */
byte accepted;                /* copies that the mail server has taken */
byte faults = FAULTS;
byte crashes = CRASHES;

#define ASKED(d, what) ((D == d) && wish[c] == what)
#if CARRIERS == 3
#define ASKS(d, what) (wish[d] what || d == 0 && wish[2] what)
#define IN_LIFE(l) (claimed_in[0] == l || claimed_in[1] == l || claimed_in[2] == l)
#define BUSY (in_hand[0] || in_hand[1] || in_hand[2])
#else
#define ASKS(d, what) (wish[d] what)
#define IN_LIFE(l) (claimed_in[0] == l || claimed_in[1] == l)
#define BUSY (in_hand[0] || in_hand[1])
#endif
#define MINE (claim == c + 1)
#define CLAIMED (state == claimed || state == transmitting)
#define SETTLED (state == sent || state == failed)
#define HAS_LOCK(d, l) (life[d] == l && session[d])
#define GONE(l) (registered[l] && (over[l] || !HAS_LOCK(0, l) && !HAS_LOCK(1, l)))

/* Every write of the row but the take-over and the claim is flushed, and so is everything before it. */
inline flush() {
    soft_take_over = false; soft_claim = false; claim_before = 0
}

/* take_over, and the same part of claim: DELETE from the inbox, INSERT into the outbox, in one statement. */
inline insert_event() {
    state = available; rows++;
    assert(rows == 1)
}

inline take_over() {
    in_inbox = false; insert_event(); soft_take_over = true
}

inline claim_event() {
    state = claimed; claim = c + 1; claimed_by = life[D]
}

inline release() {
    flush();
    state = available; claim = 0; claimed_by = 0; held = false; until = 0
}

inline resend() {
    flush();
    state = available; claimed_by = 0; held = false; until = 0
}

/* An event in doubt is sent once more under the policy `resend`, but not after a second doubt. */
inline come_into_doubt(when) {
    flush();
    state = in_doubt; until = when;
#ifdef HOLD
    held = true;
#else
#ifndef SECOND_DOUBT_RESENT
    held = doubts > 0;
#endif
#endif
    if
    :: doubts < 2 -> doubts++
    :: else
    fi
}

#ifdef MARK_UNFENCED
#define MARK_FENCE true
#else
#define MARK_FENCE MINE
#endif
#ifdef SETTLE_UNFENCED
#define SETTLE_FENCE true
#else
#define SETTLE_FENCE MINE
#endif

/* Whether an outcome still counts: also for an event in doubt, or one that waits to be sent once more. */
#define TELLS (CLAIMED || state == in_doubt && outcome[c] != in_doubt || state == available && outcome[c] != available && outcome[c] != in_doubt)

/* record: marks and outcomes of one daemon, in one transaction. Each names its claim. */
inline record(d) {
    any = false;
    for (c : 0 .. CARRIERS - 1) {
        if
        :: ASKED(d, mark) && MARK_FENCE && state == claimed ->
            state = transmitting; marked[c] = true; yes[c] = true; any = true;
#ifndef MARK_UNFLUSHED
            flush()
#endif
        :: ASKED(d, settle) && SETTLE_FENCE && TELLS ->
            if
            :: outcome[c] == available ->
                /* The doubt has ended: it was not sent. */
                if
                :: state == in_doubt -> doubts--
                :: else
                fi;
                release()
            :: outcome[c] == in_doubt -> come_into_doubt(0)
            :: else -> release(); state = outcome[c]
            fi;
            yes[c] = true; any = true
        :: else -> yes[c] = false
        fi
    }
    c = 0
}

/* The batch writer's answers. If the database does not answer, it confirms no mark and settles again. */
inline answer(d, heard) {
    for (c : 0 .. CARRIERS - 1) {
        if
        :: ASKED(d, mark) || ASKED(d, settle) && heard ->
#ifdef ANSWER_BY_EVENT
            yes[c] = any && heard;
#else
            yes[c] = yes[c] && heard;
#endif
            wish[c] = nothing
        :: else -> yes[c] = false
        fi
    }
    c = 0
}

inline register(d) {
    lives++;
    life[d] = lives;
    registered[lives] = true
}

/* rescue: the event of a daemon that no longer has a row. */
inline rescue() {
    if
    :: state == claimed -> release()
#ifdef UNTOLD
    :: state == transmitting -> release()
#else
    :: state == transmitting -> come_into_doubt(claimed_by)
#endif
    :: else
    fi
}

#define BURY(d, l) d_step { !cut[d] && life[d] != l && GONE(l) -> \
    registered[l] = false; if :: claimed_by == l -> rescue() :: else fi; skip }

/* BatchWriter.run, WorkerLease.keep, and the release of lost claims before a claim. */
proctype Daemon(byte d) {
    byte c;
    bool any;

end_nothing_to_do:
    do
    :: atomic {
        !cut[d] && ASKS(d, != nothing) ->
        d_step { record(d) };
        if
        :: d_step { answer(d, true) }
        :: d_step { faults > 0 -> faults--; answer(d, false) }
        fi
       }
    :: d_step { cut[d] && ASKS(d, == mark) -> any = false; answer(d, false) }

    /* A take-over without a claim: the limit is reached, its rule is paused or suspended, or the breaker is open. */
    :: d_step { !cut[d] && in_inbox -> take_over() }

    /* Renew, or register again if another daemon has declared this life dead. */
    :: d_step { !cut[d] && registered[life[d]] && over[life[d]] -> over[life[d]] = false }
    :: d_step { !cut[d] && !registered[life[d]] && session[d] -> register(d) }
    :: d_step { !cut[d] && !session[d] -> session[d] = true }

    :: BURY(d, 1)
    :: BURY(d, 2)
    :: BURY(d, 3)
#if LIVES > 4
    :: BURY(d, 4)
#endif
#if LIVES > 5
    :: BURY(d, 5)
#endif
    :: d_step { !cut[d] && CLAIMED && !registered[claimed_by] -> rescue(); skip }
#ifndef CLAIM_UNSWEPT
    /* Its own claim that it does not know of, because the answer was lost. */
    :: d_step { !cut[d] && state == claimed && claimed_by == life[d] && !in_hand[claim - 1] -> release() }
#endif
    /* resend: not before the lease is over, because the daemon may have lost only its session. The claim stays, so that
       a late reply still settles the event until the next claim. */
#ifdef RESEND_EARLY
    :: d_step { !cut[d] && state == in_doubt && !held -> resend() }
#else
    :: d_step { !cut[d] && state == in_doubt && !held && over[until] -> resend() }
#endif
    od
}

/* The permission, asked for after 354. Nothing comes between it and the write of the body with the dot. */
#ifdef LEASE_OF_NEXT_LIFE
#define LEASED (!over[life[D]])
#else
#define LEASED (!over[life[D]] && life[D] == claimed_in[c])
#endif
#ifdef NO_LEASE_CHECK
#define PERMITTED yes[c]
#else
#define PERMITTED (yes[c] && LEASED)
#endif

/* The dot is written. The server accepts or refuses the message, and its reply arrives or not. */
inline dot() {
    if
    :: accepted++;
       assert(is_spread && others == 1 && rows == 1);
       assert(accepted <= 2 && accepted <= 1 + doubts);
#if defined(HOLD) || defined(NEVER_TWICE)
       assert(accepted <= 1);
#endif
       if
       :: outcome[c] = sent
#ifdef NO_REPLY_IS_NO
       :: outcome[c] = available
#else
       :: outcome[c] = in_doubt
#endif
       fi
    :: outcome[c] = failed
    :: outcome[c] = available
    :: outcome[c] = in_doubt
    fi
}

inline forget() {
    wish[c] = nothing; outcome[c] = available; in_hand[c] = false; claimed_in[c] = 0; yes[c] = false; marked[c] = false
}

#ifdef SPREAD_UNFENCED
#define SPREAD_FENCE true
#else
#define SPREAD_FENCE (MINE && state == claimed && !is_spread)
#endif

/* spread: the event becomes that of the first person, and the others are inserted. Its answer may be lost. */
inline spread() {
    if
    :: SPREAD_FENCE ->
        flush();
        is_spread = true;
#ifndef SPREAD_IN_TWO
        others++;
        assert(others == 1);
#endif
        if
        :: unspread = false
        :: faults > 0 -> faults--  /* the worker releases the event */
        fi
    :: else  /* the worker has lost the event, and its release changes nothing */
    fi
}

/* The daemon gets the answer to its claim, or not: then it does not know of the claim. */
inline claim_answered() {
    if
    :: in_hand[c] = true; claimed_in[c] = life[D]; unspread = !is_spread
    :: faults > 0 -> faults--; claimed_in[c] = 0; goto end_idle
    fi
}

/* Worker._drain and Senders._send_loop: take over, claim, look up, spread, mark, send, settle. */
proctype Carrier(byte c) {
    bool unspread;

end_idle:
    do
    :: {
        if
        :: atomic {
            !cut[D] && state == available ->
            /* A sender that claims again has finished its earlier claim, so nobody names that one any more. */
            soft_claim = true; claim_before = (MINE -> 0 : claim);
            claim_event(); claim_answered()
           }
#if defined(TAKE_OVER_UNLOCKED)
        /* It inserts what it has read, and not what it has deleted. */
        :: atomic { !cut[D] && in_inbox -> claimed_in[c] = life[D] };
           atomic { !cut[D] -> take_over(); claim_event(); claim_answered() }
#elif defined(INSERTED_FIRST)
        :: atomic { !cut[D] && in_inbox -> insert_event(); claim_event(); claimed_in[c] = life[D] };
           atomic { !cut[D] -> in_inbox = false; claim_answered() }
#elif defined(DELETED_FIRST)
        :: atomic { !cut[D] && in_inbox -> in_inbox = false; claimed_in[c] = life[D] };
           atomic { !cut[D] -> insert_event(); claim_event(); claim_answered() }
#else
        :: atomic { !cut[D] && in_inbox -> take_over(); claim_event(); claim_answered() }
#endif
        fi;
        if
        :: !unspread
        :: atomic { !cut[D] && unspread -> spread() };
#ifdef SPREAD_IN_TWO
           atomic { !cut[D] -> others++ }
#endif
        :: atomic { unspread -> outcome[c] = failed; wish[c] = settle }  /* the row is gone, or has left the value */
        fi;
        if
        :: atomic { wish[c] == settle && unspread -> unspread = false }
        :: atomic { wish[c] == nothing && unspread -> unspread = false; wish[c] = settle }
#ifndef MARK_AFTER_DOT
        :: atomic { wish[c] == nothing && !unspread -> wish[c] = mark };
           atomic {
            wish[c] == nothing ->
            if
            :: outcome[c] = available  /* the connection was lost before the body, or there was no permission */
            :: outcome[c] = failed     /* refused before the body */
            :: PERMITTED ->
                /* The mark belongs to this claim, and no other daemon has claimed the event since. */
                assert(marked[c] && MINE && (state == transmitting || state == in_doubt));
                dot()
            fi;
            wish[c] = settle
           }
#else
        :: atomic { LEASED && !unspread -> dot(); wish[c] = mark };
           atomic { wish[c] == nothing -> wish[c] = settle }
#endif
        :: atomic { wish[c] == nothing && !unspread -> outcome[c] = failed; wish[c] = settle }  /* it is not to be sent */
        fi;
        atomic { wish[c] == nothing -> forget() }
       } unless {
        atomic { killed[c] -> killed[c] = false }
       }
    od
}

/* Faults of the daemons, `faults` in all. After the end another one would show nothing new. */
#define OPEN (!SETTLED || BUSY)

inline kill(carrier) {
    c = carrier;
    if
    :: claimed_in[c] -> forget(); killed[c] = true
    :: else
    fi
}

proctype Fate(byte d) {
    byte c;

end_enough:
    do
    /* kill -9 and a restart: its row and its events stay until another daemon rescues them. */
    :: d_step {
        faults > 0 && OPEN -> faults--;
        kill(d);
#if CARRIERS == 3
        if
        :: d == 0 -> kill(2)
        :: else
        fi;
#endif
        c = 0; cut[d] = false; session[d] = true; register(d)
       }
    :: d_step { faults > 0 && OPEN && !cut[d] -> faults--; cut[d] = true }
    :: d_step { cut[d] && session[d] -> session[d] = false }
    :: d_step { cut[d] -> cut[d] = false }
    :: d_step { faults > 0 && OPEN && !cut[d] && session[d] -> faults--; session[d] = false }
    od
}

/* The database server crashes and is started again. Both daemons lose their sessions. Of the commits that were not
 * flushed, the last ones are lost. */
#if CRASHES
active proctype Server() {
end_no_crash:
    do
    :: atomic {
        crashes > 0 && OPEN -> crashes--;
        cut[0] = true; cut[1] = true; session[0] = false; session[1] = false;
        if
        :: true
        :: soft_claim -> state = available; claim = claim_before; claimed_by = 0
        :: soft_take_over -> state = none; claim = 0; claimed_by = 0; in_inbox = true; rows--
        fi;
        flush()
       }
    od
}
#endif

/* The time of a lease passes without a renewal. */
#define RENEWED(d, l) (!cut[d] && life[d] == l && registered[l])
#define MATTERS(l) (registered[l] || until == l || claimed_by == l || IN_LIFE(l))
#define PASS(l) d_step { l <= lives && !over[l] && MATTERS(l) && !RENEWED(0, l) && !RENEWED(1, l) -> over[l] = true }

active proctype Time() {
end_of_time:
    do
    :: PASS(1)
    :: PASS(2)
    :: PASS(3)
#if LIVES > 4
    :: PASS(4)
#endif
#if LIVES > 5
    :: PASS(5)
#endif
    od
}

/* At the end, when no process can take a step. */
active proctype Rest() {
    timeout;
    assert(SETTLED || state == in_doubt && held);
    assert(state != sent || accepted > 0);
    assert(state == sent || accepted <= doubts);
    assert(others == is_spread);
    assert(!in_inbox && rows == 1)
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
        over[0] = true;
        register(0); register(1);
        session[0] = true; session[1] = true;
        run Daemon(0); run Daemon(1);
        run Fate(0); run Fate(1);
        run Carrier(0); run Carrier(1);
#if CARRIERS == 3
        run Carrier(2)
#endif
    }
}
