package countermand

import java.io.FileNotFoundException

import com.fasterxml.jackson.databind.{JsonNode, ObjectMapper}
import org.apache.hadoop.fs.Path
import org.apache.spark.sql.SparkSession
import org.apache.spark.sql.catalyst.analysis.NoSuchTableException
import org.apache.spark.sql.connector.catalog._
import org.apache.spark.sql.connector.expressions.Transform
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.util.CaseInsensitiveStringMap

/** What readers and jobs see as `narrative.datasets.ds_<id>` and `narrative.samples.ds_<id>` on Spark.
  *
  * Each is a view of what the manifest with the highest number shows in the warehouse (spark_warehouse.py says how that
  * is laid out), looked up whenever a query is analysed. Nothing can be changed by way of this catalog.
  *
  *   spark.sql.catalog.narrative            countermand.NarrativeCatalog
  *   spark.sql.catalog.narrative.manifests  the warehouse, such as /mnt/warehouse; each job's session sets its plane's
  */
class NarrativeCatalog extends RelationCatalog {
  private var catalog = "narrative"
  private var warehouse = ""

  override def name(): String = catalog

  override def initialize(name: String, options: CaseInsensitiveStringMap): Unit = {
    catalog = name
    warehouse = Option(options.get("manifests")).getOrElse(
      throw new IllegalArgumentException(s"spark.sql.catalog.$name.manifests: the warehouse's folder is needed"))
  }

  override def loadRelation(ident: Identifier): Relation = {
    val text = query(newest(ident).getOrElse(throw new NoSuchTableException(ident)))
    new View.Builder()
      .withSchema(SparkSession.active.sql(text).schema)
      .withQueryText(text)
      .withCurrentCatalog(catalog)
      .withCurrentNamespace(ident.namespace)
      .withSqlConfigs(java.util.Map.of())
      .withQueryColumnNames(SparkSession.active.sql(text).schema.fieldNames)
      .build()
  }

  private def query(manifest: JsonNode): String =
    if (manifest.hasNonNull("sql")) manifest.get("sql").asText
    else s"SELECT * FROM parquet.`file://$warehouse/${manifest.get("output").asText}`"

  private def newest(ident: Identifier): Option[JsonNode] = {
    val folder = new Path((s"file://$warehouse" +: (ident.namespace :+ ident.name)).mkString("/"))
    val files = folder.getFileSystem(SparkSession.active.sparkContext.hadoopConfiguration)
    val found =
      try files.listStatus(folder).map(_.getPath)
      catch { case _: FileNotFoundException => Array.empty[Path] }
    found.filter(_.getName.matches("[0-9]{20}\\.json")).maxByOption(_.getName).map { manifest =>
      val in = files.open(manifest)
      try new ObjectMapper().readTree(in: java.io.InputStream)
      finally in.close()
    }
  }

  // Only looked at: names are given, not listed, and whatever would change something is refused.

  override def listTables(namespace: Array[String]): Array[Identifier] = Array.empty
  override def listViews(namespace: Array[String]): Array[Identifier] = Array.empty
  override def createTable(
      ident: Identifier, schema: StructType, parts: Array[Transform], properties: java.util.Map[String, String]
  ): Table = refuse()
  override def alterTable(ident: Identifier, changes: TableChange*): Table = refuse()
  override def dropTable(ident: Identifier): Boolean = refuse()
  override def renameTable(from: Identifier, to: Identifier): Unit = refuse()
  override def createView(ident: Identifier, view: View): View = refuse()
  override def replaceView(ident: Identifier, view: View): View = refuse()
  override def dropView(ident: Identifier): Boolean = refuse()
  override def renameView(from: Identifier, to: Identifier): Unit = refuse()

  private def refuse(): Nothing =
    throw new UnsupportedOperationException(s"$catalog shows what jobs have published, and takes nothing else")
}
