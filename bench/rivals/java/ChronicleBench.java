import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.concurrent.CyclicBarrier;
import net.openhft.chronicle.bytes.Bytes;
import net.openhft.chronicle.bytes.SyncMode;
import net.openhft.chronicle.queue.ChronicleQueue;
import net.openhft.chronicle.queue.ExcerptAppender;
import net.openhft.chronicle.queue.ExcerptTailer;
import net.openhft.chronicle.queue.impl.single.SingleChronicleQueueBuilder;
import net.openhft.chronicle.queue.rollcycles.LargeRollCycles;
import net.openhft.chronicle.wire.DocumentContext;

/**
 * Writes and reads a Chronicle Queue as a line on the standard input says, and answers with a line.
 *
 *   pool FILE WIDTH                        the values to write, one after the other, again from the first
 *   write DIRECTORY THREADS BLOCK BLOCKS SYNC
 *                                          done SECONDS; each thread writes BLOCKS blocks of BLOCK records;
 *                                          SYNC is true to sync after each block
 *   read DIRECTORY THREADS                 done SECONDS RECORDS HEX...; each thread reads all; HEX: the last value
 *
 * Seconds run from when all threads are ready to when the last is done.
 */
public final class ChronicleBench {
  private static final long BLOCK_BYTES = 256L << 20;

  private static byte[][] pool;

  private interface Work {
    void run(int index) throws Exception;
  }

  public static void main(String[] none) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
    System.out.println("ready");
    for (String line; (line = in.readLine()) != null; ) {
      String answer;
      try {
        answer = obey(line.split(" "));
      } catch (Throwable error) {
        answer = "error " + error.toString().replace('\n', ' ');
      }
      System.out.println(answer);
      System.out.flush();
    }
  }

  private static String obey(String[] words) throws Exception {
    switch (words[0]) {
      case "pool":
        return fill(Path.of(words[1]), Integer.parseInt(words[2]));
      case "write":
        return write(words[1], Integer.parseInt(words[2]), Integer.parseInt(words[3]),
            Long.parseLong(words[4]), Boolean.parseBoolean(words[5]));
      case "read":
        return read(words[1], Integer.parseInt(words[2]));
      default:
        return "error no such command: " + words[0];
    }
  }

  private static String fill(Path file, int width) throws Exception {
    byte[] all = Files.readAllBytes(file);
    pool = new byte[all.length / width][width];
    for (int i = 0; i < pool.length; i++) {
      System.arraycopy(all, i * width, pool[i], 0, width);
    }
    return "done";
  }

  private static ChronicleQueue open(String directory, boolean sync) {
    // LARGE_DAILY holds 2^37 records a day; blocks are what is mapped at once. Without a mode, sync() does nothing.
    return SingleChronicleQueueBuilder.single(directory)
        .rollCycle(LargeRollCycles.LARGE_DAILY)
        .blockSize(BLOCK_BYTES)
        .syncMode(sync ? SyncMode.SYNC : SyncMode.NONE)
        .build();
  }

  private static String write(String directory, int threads, int block, long blocks, boolean sync)
      throws Exception {
    try (ChronicleQueue queue = open(directory, sync)) {
      double seconds = time(threads, gate -> {
        try (ExcerptAppender appender = queue.createAppender()) {
          gate.run(0);
          int at = 0;
          for (long b = 0; b < blocks; b++) {
            for (int i = 0; i < block; i++) {
              byte[] value = pool[at];
              at = at + 1 == pool.length ? 0 : at + 1;
              try (DocumentContext context = appender.writingDocument()) {
                context.wire().bytes().write(value);
              }
            }
            if (sync) {
              appender.sync();
            }
          }
          gate.run(1);
        }
      });
      return "done " + seconds;
    }
  }

  private static String read(String directory, int threads) throws Exception {
    long[] counts = new long[threads];
    byte[][] lasts = new byte[threads][];
    try (ChronicleQueue queue = open(directory, false)) {
      int[] next = new int[1];
      double seconds = time(threads, gate -> {
        int index;
        synchronized (next) {
          index = next[0]++;
        }
        try (ExcerptTailer tailer = queue.createTailer()) {
          gate.run(0);
          byte[] value = new byte[0];
          long count = 0;
          while (true) {
            try (DocumentContext context = tailer.readingDocument()) {
              if (!context.isPresent()) {
                break;
              }
              Bytes<?> bytes = context.wire().bytes();
              value = new byte[(int) bytes.readRemaining()];
              bytes.read(value);
              count++;
            }
          }
          gate.run(1);
          counts[index] = count;
          lasts[index] = value;
        }
      });
      StringBuilder answer = new StringBuilder("done " + seconds);
      for (int i = 0; i < threads; i++) {
        answer.append(' ').append(counts[i]).append(' ').append(HexFormat.of().formatHex(lasts[i]));
      }
      return answer.toString();
    }
  }

  private interface Part {
    /** Calls gate.run(0) when it is ready and gate.run(1) when it is done. */
    void run(Work gate) throws Exception;
  }

  private static double time(int threads, Part part) throws Exception {
    long[] spent = {0, 0};
    CyclicBarrier ready = new CyclicBarrier(threads, () -> spent[0] = System.nanoTime());
    CyclicBarrier done = new CyclicBarrier(threads, () -> spent[1] = System.nanoTime());
    Throwable[] failed = new Throwable[1];
    Thread[] running = new Thread[threads];
    for (int i = 0; i < threads; i++) {
      running[i] = new Thread(() -> {
        try {
          part.run(which -> (which == 0 ? ready : done).await());
        } catch (Throwable error) {
          failed[0] = error;
          ready.reset();
          done.reset();
        }
      });
      running[i].start();
    }
    for (Thread thread : running) {
      thread.join();
    }
    if (failed[0] != null) {
      throw new IllegalStateException(failed[0]);
    }
    return (spent[1] - spent[0]) / 1e9;
  }
}
