use crate::World;

impl World {
    /// Publishes what no client of ours would: with pika, which checks less. In the Python, `ch` is a channel, `pika` the library,
    /// and `nested(depth, kind)` makes headers that are nested as deeply as is asked for.
    ///
    /// # Panics
    /// If Python does.
    pub async fn publish_oddly(&self, python: &str) {
        let script = format!(
            "import pika, sys, threading\n\
             sys.setrecursionlimit(200000); threading.stack_size(512 * 1024 * 1024)\n\
             def nested(depth, kind):\n  value = 'x'\n  for _ in range(depth): value = {{'n': value}} if kind == 'table' else [value]\n  return {{'n': value}}\n\
             def work():\n  c = pika.BlockingConnection(pika.URLParameters(sys.argv[1])); ch = c.channel()\n  {python}\n  c.close(); print('done')\n\
             t = threading.Thread(target=work); t.start(); t.join()"
        );
        let arguments = ["-c", &script, &self.amqp_url];
        let output = tokio::process::Command::new("python3").args(arguments).output().await.expect("Python runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("done"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    }
}
