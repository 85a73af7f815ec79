import os, sys, tempfile, time
from datetime import datetime, UTC, timedelta, date
from pathlib import Path
from soak.services import *
from soak.commands import run
folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
now = datetime(2026,3,2,7,0,tzinfo=UTC)
ex = Exchange(7, 40, now)
db = Database(folder/"pg"); st = Store(); wh = Webhook()
with in_thread(ex, "127.0.0.1", 0) as port:
    base=f"http://127.0.0.1:{port}"
    home=folder/"home"; tmp=folder/"tmp"; tmp.mkdir()
    env={k:v for k,v in os.environ.items() if k in ("PATH","HOME","LANG")} | dict(
      ENVIRONMENT="staging", SUPABASE_DB_URL=db.url("predictbench"), DAGSTER_POSTGRES_URL=db.url("dagster"),
      PREDICTBENCH_HOME=str(home), TMPDIR=str(tmp), POLYMARKET_BASE_URL=base, POLYMARKET_CLOB_URL=base+"/clob", LOG_FORMAT="json",
      HORIZONS="1,7", POLYMARKET_PAGE_SIZE="20", POLYMARKET_REQUESTS_PER_SECOND="1000", PREDICTBENCH_NOW=now.isoformat(), MIN_VOLUME="50",
      **st.variables)
    log=folder/"log"
    def ev(r,e,s): print("   ",e,s, round(time.monotonic()%1000,2))
    for a in (["db","upgrade"],["due","--scheduled"],["daily","--window-days","1","--on-existing","skip"],["daily","--window-days","7","--on-existing","skip"],["resolve","--json"],["score","--json"],["report","--output",str(folder/'page')], ["prune"], ["verify","--all"]):
        d=run(a,env,folder,log,on_event=ev)
        print(a,d.code,round(d.seconds,1),round(d.cpu_seconds,1),round(d.peak_mb),d.files,d.tail[:200])
    print(len(ex.offered(datetime(2026,3,3,tzinfo=UTC),datetime(2026,3,4,tzinfo=UTC))), db.rows("select run_date,window_days,status,offered_markets,processed_markets,rejected_markets,excluded_markets from predictbench.processing_runs"))
    print(folder, st.objects().keys())
db.stop(); st.close(); wh.close()
